"""The ``osken-manager`` command: runs os-ken applications. os-ken 4 no longer brings its own.

An exception that ends a thread, ours or one of os-ken's, ends the process: it would look well and
do half of its work. Its reason is in the log, and systemd starts it again.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

from os_ken import cfg, log
from os_ken.base.app_manager import AppManager  # before any controller module
from os_ken.controller import ofp_handler
from os_ken.lib import hub

from fedsdn.config.local import GROUP, OPTIONS
from fedsdn.errors import FINAL_STATUS, FedsdnError, FinalError

_LOG = logging.getLogger(__name__)
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main() -> None:
    """Run the applications named on the command line until SIGTERM or SIGINT."""
    try:
        _run(sys.argv[1:])
    except (FedsdnError, cfg.oslo_config.cfg.Error) as error:
        is_final = isinstance(error, (FinalError, cfg.oslo_config.cfg.Error))
        try:
            print(f"osken-manager: {' '.join(str(error).split())}", file=sys.stderr)
        finally:
            _leave(FINAL_STATUS if is_final else 1)
    except Exception:
        _LOG.critical("the main thread failed: the process ends", exc_info=True)
        _leave(1)


def _run(arguments: list[str]) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each path to a peer has a socket
    applications = _configure(arguments)
    log.init_log()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    threading.excepthook = _thread_failed
    # os-ken's own drops every exception without a word: its TaskExit is Exception.
    hub.HubThread.run = threading.Thread.run
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # os-ken would wait for bridges on TCP ports; the application goes to its own bridge.
    ofp_handler.OpenFlowController = lambda: _do_nothing
    manager = AppManager.get_instance()
    try:
        manager.load_apps([*applications, "os_ken.controller.ofp_handler"])
    except ModuleNotFoundError as error:
        raise FedsdnError(f"no such application: {error}") from error
    contexts = manager.create_contexts()
    manager.instantiate_apps(**contexts)
    _handle_signals(woken)


def _configure(arguments: list[str]) -> list[str]:
    """Parse options and config files; return the names of the applications."""
    conf = cfg.CONF
    conf.register_cli_opt(
        cfg.oslo_config.cfg.ListOpt("app", positional=True, help="Modules to run, as fedsdn.app.")
    )
    conf.register_opts(OPTIONS, GROUP)
    conf.register_cli_opts(OPTIONS, GROUP)
    conf(arguments, project="fedsdn", prog="osken-manager", version=version("os-ken"))
    return list(conf.app)


def _handle_signals(woken: socket.socket) -> NoReturn:
    """Have Python call the signals' handlers, which it does in the main thread alone.

    A main thread that joined the others would sleep on if the kernel gave the signal to one of
    them (signal(7)): a lock is not left for that, but a byte of the wake-up descriptor is read.
    """
    while True:
        woken.recv(4096)


def _do_nothing() -> None:
    pass


def _stop(number: int, _frame: FrameType | None) -> None:
    try:
        _LOG.info("stopping on %s; the flows stay on the bridge", signal.Signals(number).name)
        for application in AppManager.get_instance().applications.values():
            application.close()
    except Exception:
        _LOG.exception("no leave taken")
    finally:  # or the main thread would end, and the others go on
        _leave(0)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    name = "unknown" if failed.thread is None else failed.thread.name
    error = failed.exc_value
    _LOG.critical("thread '%s' failed: the process ends", name, exc_info=error)
    _leave(1)


def _leave(status: int) -> None:
    """End the process at once: os-ken's threads are not daemons and would keep it alive."""
    try:
        for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
            with suppress(OSError, ValueError):  # a full disk, a reader that has gone
                flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
