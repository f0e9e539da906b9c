"""Errors a user caused and can mend: one line names the thing, one shows the way out."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right.

    `message` names the file or option and what is wrong with it; `hint` says what to do.
    The command line prints both and exits with 1, never with a traceback.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None]]:
        # Exceptions cross process borders by their `args`; keep the hint on the way.
        return type(self), (self.message, self.hint)
