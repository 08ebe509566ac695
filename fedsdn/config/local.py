"""A host's own settings: which site it is, and where the federation file lies.

They are oslo.config options, as OpenStack operators know them, so that ``osken-manager`` and
``fedsdn`` read the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from fedsdn.errors import FedsdnError

DEFAULT_CONFIG_FILE = Path("/etc/fedsdn/fedsdn.conf")
GROUP = "fedsdn"
DEFAULT_OPENFLOW_PORT = 6654
"""Not 6633 and not 6653: those are taken by Neutron's agent and by other controllers."""

OPENFLOW_PORT_OPTION = cfg.IntOpt(
    "ofp_tcp_listen_port",
    default=DEFAULT_OPENFLOW_PORT,
    help="TCP port on which the controller waits for the bridge (os-ken's own option).",
)
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
    """Site name, path of the federation file and TCP port of the controller of a host."""

    site: str
    federation: Path
    openflow_port: int


def settings_from(conf: cfg.ConfigOpts) -> LocalSettings:
    """Read the settings from a parsed configuration that has ``OPTIONS`` registered.

    Raises:
        FedsdnError: no site is named.

    """
    group = conf[GROUP]
    if not group.site:
        raise FedsdnError(
            "this host's site is not named: write 'site = NAME' under [fedsdn] in "
            f"{DEFAULT_CONFIG_FILE}, or name it on the command line"
        )
    return LocalSettings(
        site=group.site,
        federation=Path(group.federation),
        openflow_port=conf.ofp_tcp_listen_port,
    )


def local_settings(
    config_file: Path | None, site: str | None = None, federation: Path | None = None
) -> LocalSettings:
    """Read ``config_file`` (or the default one, where it exists) and lay overrides over it.

    Raises:
        FedsdnError: the file is missing or not readable as configuration, or no site is named.

    """
    if config_file is None and DEFAULT_CONFIG_FILE.exists():
        config_file = DEFAULT_CONFIG_FILE
    conf = cfg.ConfigOpts()
    conf.register_opt(OPENFLOW_PORT_OPTION)
    conf.register_opts(OPTIONS, GROUP)
    try:
        conf([], project="fedsdn", default_config_files=[str(config_file)] if config_file else [])
    except cfg.Error as error:
        raise FedsdnError(f"{config_file}: {' '.join(str(error).split())}") from error
    if site is not None:
        conf.set_override("site", site, GROUP)
    if federation is not None:
        conf.set_override("federation", str(federation), GROUP)
    return settings_from(conf)
