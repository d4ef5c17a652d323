"""Every error that cascade_serve raises on purpose.

CascadeError
├── ConfigError                a flag, file or demand that can't be met (the command line exits with 2)
│   ├── PlanError              a plan contradicts itself
│   ├── BundleError            a bundle on disk is missing, broken or not what its plan says
│   ├── UnreachableError       the planner can't reach what was demanded; says what it can
│   └── MissingExtraError      an optional package is needed and absent
├── ProcessError               a front-end process can't be made, ended of itself, or had to be killed (exit code 1)
└── RequestError               one request can't be answered; others are not disturbed
    ├── InvalidRequestError    bad tensor, parameter or cap
    ├── NotFoundError          unknown cascade, version, policy or shared memory region
    ├── ExistsError            a shared memory region of that name is registered already
    ├── NotAllowedError        the server was not started with the flag that allows this call
    ├── OverloadedError        every slot is taken
    ├── LateError              the deadline passed
    ├── AbandonedError         the caller has gone
    ├── UnavailableError       loading, draining or stopped
    └── MemberError            a member failed, or had no finite prediction
"""


class CascadeError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(CascadeError):
    """A flag, file or demand that can't be met."""


class PlanError(ConfigError):
    """A plan contradicts itself."""


class BundleError(ConfigError):
    """A bundle on disk is missing, broken or not what its plan says."""


class UnreachableError(ConfigError):
    """The planner can't reach what was demanded; the message says what it can."""


class MissingExtraError(ConfigError):
    """An optional package is needed and absent."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'cascade-serve[{extra}]'")


class ProcessError(CascadeError):
    """A front-end process can't be made, ended of itself, or had to be killed."""


class RequestError(CascadeError):
    """One request can't be answered; others are not disturbed."""


class InvalidRequestError(RequestError):
    """Bad tensor, parameter or cap.

    Args:
        field: the tensor or parameter at fault, as the caller names it.
        value: what was received.
        limit: what would have been accepted, as a phrase after "must be".
    """

    def __init__(self, field: str, value: object, limit: str) -> None:
        super().__init__(f"{field}: got {value}; must be {limit}")
        self.field = field


class NotFoundError(RequestError):
    """Unknown cascade, version, policy or shared memory region.

    Args:
        kind: what was looked for, such as "cascade".
        name: the name that is unknown.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"{kind} {name!r} not found; known: {', '.join(known) or 'none'}")


class ExistsError(RequestError):
    """The name is taken.

    Args:
        kind: what was to be made, such as "shared memory region".
        name: the name.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} is there already")


class NotAllowedError(RequestError):
    """The server was not started with the flag that allows this call."""


class OverloadedError(RequestError):
    """Every slot is taken; the caller may try again later."""


class LateError(RequestError):
    """The deadline passed before the request could be answered."""


class AbandonedError(RequestError):
    """The caller has gone; nobody reads the answer."""


class UnavailableError(RequestError):
    """Loading, draining or stopped; another replica, or a later try, may answer."""


class MemberError(RequestError):
    """A member failed, or no member of a row had a finite prediction."""
