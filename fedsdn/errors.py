"""The error every command turns into one line for a person."""


class FedsdnError(Exception):
    """Something a user can cause or mend.

    The message is one line: what was found, where, and what to do about it. The command line
    prints it without a traceback and exits with status 1.
    """
