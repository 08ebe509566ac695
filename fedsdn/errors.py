"""The error every command turns into one line for a person."""


class FedsdnError(Exception):
    """Something a user can cause or mend.

    The message is one line: what was found, where, and what to do about it. The command line
    prints it without a traceback and exits with status 1.
    """


class FinalError(FedsdnError):
    """One that only a person can mend: a service that ends by it is not started again."""


FINAL_STATUS = 78
"""Exit status of such a service (``EX_CONFIG``, sysexits.h); its unit has it, too."""
