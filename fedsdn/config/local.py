"""A host's own settings: its site's name, and the path of the federation file.

They are oslo.config options, as OpenStack operators know them; ``osken-manager`` and ``fedsdn``
read the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from fedsdn.errors import FinalError

DEFAULT_CONFIG_FILE = Path("/etc/fedsdn/fedsdn.conf")
GROUP = "fedsdn"
IDENTITY_DIRECTORY = "identity"
OPTIONS = [
    cfg.StrOpt("site", help="Name of this site in the federation file."),
    cfg.StrOpt(
        "federation",
        default="/etc/fedsdn/federation.yaml",
        help="Path of the federation file, the same at every site.",
    ),
]


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Site name and path of the federation file of a host."""

    site: str
    federation: Path

    @property
    def identity(self) -> Path:
        """The directory of this site's private keys, beside the federation file."""
        return self.federation.parent / IDENTITY_DIRECTORY


def settings_from(conf: cfg.ConfigOpts) -> LocalSettings:
    """Read the settings from a parsed configuration that has ``OPTIONS`` registered.

    Raises:
        FinalError: no site is named.

    """
    group = conf[GROUP]
    if not group.site:
        raise FinalError(
            "this host's site is not named: write 'site = NAME' under [fedsdn] in "
            f"{DEFAULT_CONFIG_FILE}, or name it on the command line"
        )
    return LocalSettings(
        site=group.site,
        federation=Path(group.federation),
    )


def local_settings(
    config_file: Path | None, site: str | None = None, federation: Path | None = None
) -> LocalSettings:
    """Read ``config_file``, or the default one if it exists; the other arguments override it.

    Raises:
        FinalError: the file is missing or not readable as configuration, or no site is named.

    """
    if config_file is None and DEFAULT_CONFIG_FILE.exists():
        config_file = DEFAULT_CONFIG_FILE
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTIONS, GROUP)
    try:
        conf([], project="fedsdn", default_config_files=[str(config_file)] if config_file else [])
    except cfg.Error as error:
        raise FinalError(f"{config_file}: {' '.join(str(error).split())}") from error
    if site is not None:
        conf.set_override("site", site, GROUP)
    if federation is not None:
        conf.set_override("federation", str(federation), GROUP)
    return settings_from(conf)
