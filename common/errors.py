"""The error that a user can mend."""


class UserError(Exception):
    """Something in the user's files or flags is wrong.

    The message says what is wrong, in which file, and what to do next. Programs end with this message alone,
    without a traceback (see `common.process`).
    """
