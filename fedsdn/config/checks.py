"""What a federation file must hold beyond its form: networks that fit, sites that reach sites."""

from __future__ import annotations

from fedsdn.config.document import Document
from fedsdn.config.model import Federation


def check_federation(federation: Federation, document: Document) -> None:
    """Check that the federation makes sense.

    Raises:
        ConfigError: it does not; one line that says where.

    """
