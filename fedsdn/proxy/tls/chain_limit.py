"""How long a list of certificates OpenSSL reads; Python's ``ssl`` has no name for it.

OpenSSL parses 100 KB of them, and looks for a chain, before it refuses them: 35 ms. What has come
may be counted before it is handed over, but not what comes while OpenSSL reads.

Source: ``SSL_CTX_set_max_cert_list``, a macro, in OpenSSL's ``ssl.h``; CPython's ``_ssl.c``, where
an ``SSLContext`` is an object's head and then OpenSSL's pointer.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl

_GET, _SET = 50, 51
_DEFAULT = 100 * 1024
"""OpenSSL's, by which it is known that the pointer is one."""


def limit(context: ssl.SSLContext, most: int) -> bool:
    """Have a context refuse a longer list of certificates, in octets, by its header.

    Return whether this could be done: not where OpenSSL is a part of the interpreter.
    """
    try:
        control = ctypes.CDLL(_ssl.__file__).SSL_CTX_ctrl
    except (AttributeError, OSError):
        return False
    control.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p
    control.restype = ctypes.c_long
    inside = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    if control(inside, _GET, 0, None) != _DEFAULT:
        return False
    control(inside, _SET, most, None)
    return bool(control(inside, _GET, 0, None) == most)
