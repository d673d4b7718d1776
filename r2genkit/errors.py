"""The one exception that speaks to users."""


class KitError(Exception):
    """Something the user can mend: wrong input, missing file, unsatisfiable request.

    The message is one sentence (or a short list, one problem a line) that says what is wrong,
    where, and what to do. The command line prints it without a traceback and exits with 2.
    """
