"""The models of the archive: `Trace`, `Message`, `Goal`, `GoalTree`, `Event`.

Pure values and their rules; they know nothing of files. Unknown fields are kept. `coerce` turns a
framework's own dataclasses, mappings or objects with the same attributes into them.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from traceark.errors import InvalidValueError, NaiveTimeWarning, UnknownFieldError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# Names that a record's own line or a header uses; a model's extra fields must not.
RESERVED_FIELDS = frozenset(
    {
        "_offset",
        "_writer",
        "_crc",
        "_op",
        "_digest",
        "_format",
        "_incarnation",
        "_revision",
        "_checkpoint",
        "_set",
        "_changed",
        "_changes",
        "_after",
        "_before",
    }
)
_TOO_FINE = re.compile(r"\.\d{6}\d*[1-9]")


def utc_now() -> datetime:
    """Return the current time in UTC, to the microsecond."""
    return datetime.now(UTC)


def _utc(value: object) -> object:
    """Return a time as UTC; a naive one is taken as UTC with a `NaiveTimeWarning`."""
    if isinstance(value, str):
        if _TOO_FINE.search(value):
            raise ValueError(f"{value!r} is finer than a microsecond, which the archive cannot keep")
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an ISO 8601 time") from None
    if not isinstance(value, datetime):
        raise ValueError(f"expected a datetime or an ISO 8601 text, not {type(value).__name__}")
    if value.utcoffset() is None:
        warnings.warn(f"the time {value.isoformat()} has no zone; it is taken as UTC", NaiveTimeWarning, stacklevel=2)
        return value.replace(tzinfo=UTC)
    try:
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{value.isoformat()} is outside the years that UTC can say") from None


def _exact_float(value: object) -> object:
    """Refuse a cost that a float cannot hold exactly as it is written."""
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        try:
            as_float = float(value)
        except OverflowError:
            raise ValueError(f"{value} does not fit a 64-bit float") from None
        if Decimal(repr(as_float)) != value:
            raise ValueError(f"{value} does not fit a 64-bit float exactly")
        return as_float
    return value


# Lone surrogates, which a Parquet column cannot hold, are refused when the text is encoded.
Text = Annotated[str, Field(strict=True)]
Int64 = Annotated[int, Field(strict=True, ge=INT64_MIN, le=INT64_MAX)]
Cost = Annotated[float, BeforeValidator(_exact_float), Field(strict=True, allow_inf_nan=False)]
Time = Annotated[datetime, BeforeValidator(_utc)]
TraceStatus = Literal["running", "completed", "failed", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
# Where the metadata of a trace says that its messages' times were not told: "run", they have that of the run;
# "id", that which the trace's id names; "unknown", the epoch.
TIMES = "times"


class ArchiveModel(BaseModel):
    """Base of all models: unknown fields are kept, and an assignment is validated too."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, serialize_by_alias=False)

    # Of a message what was made without validation is refused when it is encoded, since there are so many of them.
    checked_later: ClassVar[bool] = False

    @classmethod
    def coerce(cls, value: object) -> Self:
        """Return `value` as this model.

        Parameters
        ----------
        value : object
            An instance of the model, a mapping, a dataclass, or any object whose attributes have
            the fields' names. Attributes that the model does not know are kept as extra fields.

        Raises
        ------
        InvalidValueError
            A value breaks the model's rules; the error names its path.

        Examples
        --------
        >>> Message.coerce({"trace_id": "t", "role": "user", "content": "hi"}).content
        'hi'
        """
        if type(value) is cls:
            return value if cls.checked_later else value._checked()
        return cls.parse(attributes_of(value))

    @classmethod
    def parse(cls, fields: Mapping[str, object]) -> Self:
        """Return the model of a mapping of fields, with errors of this package."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise invalid(error) from error

    @classmethod
    def restored(cls, values: dict[str, Any], extra: dict[str, Any]) -> Self:
        """Return the model of values that are sure to keep its rules, as `parse` would, unlooked at.

        For models whose absent fields are None, and without private attributes.

        Parameters
        ----------
        values : dict
            Of all fields, in their order; they become the model's own.
        extra : dict
            Unknown fields; none has the name of a field.
        """
        model = cls.__new__(cls)
        put = object.__setattr__
        put(model, "__dict__", values)
        put(
            model,
            "__pydantic_fields_set__",
            {name for name, value in values.items() if value is not None} | extra.keys(),
        )
        put(model, "__pydantic_extra__", extra)
        put(model, "__pydantic_private__", None)
        return model

    def _checked(self) -> Self:
        """Return this itself, but what it should be where it was made, copied or changed without validation."""
        checked = self.parse(self.given())
        if checked.__dict__ == self.__dict__:
            return self
        object.__setattr__(checked, "__pydantic_private__", self.__pydantic_private__)
        return checked

    def given(self) -> dict[str, Any]:
        """Return all fields, and those of models in them, to be validated anew: pydantic takes a model as it is."""
        return {name: _given(value) for name, value in self.__dict__.items()} | (self.__pydantic_extra__ or {})

    def fields(self) -> dict[str, Any]:
        """Return the known fields that are not None and all extra ones, unconverted."""
        known = {name: value for name, value in self.__dict__.items() if value is not None}
        extra = self.__pydantic_extra__
        return {**known, **extra} if extra else known


def _given(value: Any) -> Any:
    if isinstance(value, ArchiveModel):
        return value.given()
    return (
        [*map(_given, value)]
        if type(value) is list and any(isinstance(each, ArchiveModel) for each in value)
        else value
    )


class Usage(ArchiveModel):
    """Tokens of one model call by kind; kinds do not overlap but for reasoning, a part of output.

    Their sum, ``input + output + cache_read + cache_write``, is what the call processed. Providers
    differ: OpenAI's input count contains the cached tokens, Anthropic's does not, as here.
    """

    input_tokens: Int64 | None = None
    output_tokens: Int64 | None = None
    cache_read_tokens: Int64 | None = None
    cache_write_tokens: Int64 | None = None
    reasoning_tokens: Int64 | None = None

    def total(self) -> int:
        """Return the number of tokens processed.

        Examples
        --------
        >>> Usage(input_tokens=10, output_tokens=5, cache_read_tokens=100, reasoning_tokens=3).total()
        115
        """
        kinds = self.__dict__
        return (
            (kinds["input_tokens"] or 0)
            + (kinds["output_tokens"] or 0)
            + (kinds["cache_read_tokens"] or 0)
            + (kinds["cache_write_tokens"] or 0)
        )


class Message(ArchiveModel):
    """One message of a trace.

    Attributes
    ----------
    message_id, sequence : str, int, optional
        Assigned when absent: the next sequence, and ``<trace_id>-<sequence, four digits or more>``.
    content : JSON
        Anything JSON can say, kept exactly.
    tokens : int, optional
        Tokens that count to the totals; when absent, the sum of `usage` counts. A negative number,
        as of a credit or a correction, is kept and counts as it is, and so do those below.
    cost : float, optional
        In the currency of the archive's owner, usually US dollars.
    duration_ms : int, optional
        Milliseconds.
    created_at : datetime, optional
        UTC; the time of adding when absent.

    Examples
    --------
    >>> Message(trace_id="run-7", role="user", content={"text": "hi"}).role
    'user'
    """

    checked_later = True

    message_id: Text | None = None
    trace_id: Text
    role: Text
    sequence: Int64 | None = None
    goal_id: Text | None = None
    tool_call_id: Text | None = None
    tool_name: Text | None = None
    content: Any = None
    description: Text | None = None
    tokens: Int64 | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    duration_ms: Int64 | None = None
    status: Text | None = None
    error: Text | None = None
    created_at: Time | None = None

    # Fields that identify a message; an update must not name them.
    fixed: ClassVar[frozenset[str]] = frozenset({"message_id", "trace_id", "sequence"})

    def counted_tokens(self) -> int:
        """Return the tokens that this message adds to the totals."""
        if self.tokens is not None:
            return self.tokens
        return self.usage.total() if self.usage is not None else 0


class Event(ArchiveModel):
    """One event of a trace; `event_id` counts from 1 without gaps and is the cursor of readers."""

    event_id: Int64
    event_type: Text
    payload: Any = None
    created_at: Time


# An event to append: its type and payload, and its time where it is not that of appending.
GivenEvent: TypeAlias = "tuple[str, Json] | tuple[str, Json, datetime]"


class GoalStats(ArchiveModel):
    """What messages add up to: counts, tokens, cost, milliseconds, and the last few tool names.

    `preview` joins at most five tool names with an arrow, the newest last.
    """

    message_count: Int64 = 0
    total_tokens: Int64 = 0
    total_cost: Cost = 0.0
    total_duration_ms: Int64 = 0
    preview: Text | None = None


class Goal(ArchiveModel):
    """One goal of a trace: what to do, below which goal, and what it took.

    `self_stats` sum the goal's own messages, `cumulative_stats` add those of all descendants; the
    store keeps both.
    """

    id: Text
    description: Text = ""
    reason: Text | None = None
    parent_id: Text | None = None
    type: Text | None = None
    status: Text = "pending"
    summary: Text | None = None
    sub_trace_ids: list[Text] = Field(default_factory=list)
    self_stats: GoalStats = Field(default_factory=GoalStats)
    cumulative_stats: GoalStats = Field(default_factory=GoalStats)
    created_at: Time | None = None
    completed_at: Time | None = None

    fixed: ClassVar[frozenset[str]] = frozenset({"id"})


class GoalTree(ArchiveModel):
    """The goals of a trace, as a flat list with parent ids, and which one is being worked on.

    A tree that was read carries the revision it was read at; writing it back over a newer one is
    refused. A tree made fresh replaces what is there.

    Examples
    --------
    >>> tree = GoalTree(mission="ship", goals=[Goal(id="1"), Goal(id="2", parent_id="1")])
    >>> [goal.id for goal in tree.children("1")]
    ['2']
    """

    mission: Text = ""
    goals: list[Goal] = Field(default_factory=list)
    current_id: Text | None = None

    _revision: int | None = PrivateAttr(default=None)
    _read_stats: dict[str, tuple[GoalStats, GoalStats]] = PrivateAttr(default_factory=dict)

    def goal(self, goal_id: str) -> Goal | None:
        """Return the goal of that id, or None."""
        return next((goal for goal in self.goals if goal.id == goal_id), None)

    def children(self, goal_id: str | None) -> list[Goal]:
        """Return the goals right below `goal_id`; None gives the roots."""
        return [goal for goal in self.goals if goal.parent_id == goal_id]

    def walk(self) -> Iterator[tuple[int, Goal]]:
        """Yield ``(depth, goal)`` from the roots down, children in the order of the list."""
        below: dict[str | None, list[Goal]] = {}
        for goal in self.goals:
            below.setdefault(goal.parent_id, []).append(goal)
        stack = [(0, goal) for goal in reversed(below.get(None, []))]
        while stack:
            depth, goal = stack.pop()
            yield depth, goal
            stack.extend((depth + 1, child) for child in reversed(below.get(goal.id, [])))

    def check(self) -> None:
        """Refuse two goals of one id, a parent that is unknown, and a cycle.

        Raises
        ------
        InvalidValueError
            With the path of the goal, such as ``goals[2].parent_id``.
        """
        parents: dict[str, str | None] = {}
        for index, goal in enumerate(self.goals):
            if goal.id in parents:
                raise InvalidValueError(f"the goal id {goal.id!r} is taken by an earlier goal", f"goals[{index}].id")
            parents[goal.id] = goal.parent_id
        sound: set[str] = set()
        for index, goal in enumerate(self.goals):
            if goal.parent_id is not None and goal.parent_id not in parents:
                raise InvalidValueError(f"no goal {goal.parent_id!r} in this tree", f"goals[{index}].parent_id")
            seen: set[str] = set()
            step: str | None = goal.id
            while step is not None and step not in sound:
                if step in seen:
                    raise InvalidValueError(f"goal {goal.id!r} is its own ancestor", f"goals[{index}].parent_id")
                seen.add(step)
                step = parents.get(step)
            sound |= seen
        if self.current_id is not None and self.current_id not in parents:
            raise InvalidValueError(f"no goal {self.current_id!r} in this tree", "current_id")


class Trace(ArchiveModel):
    """One run of an agent: its header with totals.

    Attributes
    ----------
    trace_id : str
        Made up (a UUID) when absent.
    mode : str
        What kind of run: ``agent``, ``call``, or a word of your own.
    status : {'running', 'completed', 'failed', 'cancelled'}
        All but the first are terminal: the trace is sealed soon after.
    total_messages, total_tokens, total_cost, total_duration_ms
        Kept by the store from the messages.
    last_sequence, last_event_id : int
        The highest sequence of a message, the id of the last event; 0 when there is none.

    Examples
    --------
    >>> Trace(trace_id="run-7", task="sort the mail").status
    'running'
    """

    trace_id: Text = Field(default_factory=lambda: str(uuid.uuid4()))
    mode: Text = "agent"
    task: Text | None = None
    agent_type: Text | None = None
    uid: Text | None = None
    model: Text | None = None
    status: TraceStatus = "running"
    parent_trace_id: Text | None = None
    parent_goal_id: Text | None = None
    current_goal_id: Text | None = None
    total_messages: Int64 = 0
    total_tokens: Int64 = 0
    total_cost: Cost = 0.0
    total_duration_ms: Int64 = 0
    last_sequence: Int64 = 0
    last_event_id: Int64 = 0
    result_summary: Text | None = None
    error_message: Text | None = None
    context: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: Time | None = None
    completed_at: Time | None = None

    fixed: ClassVar[frozenset[str]] = frozenset({"trace_id"})


Model = TypeVar("Model", bound=ArchiveModel)


def invalid(error: ValidationError) -> InvalidValueError:
    """Return pydantic's first complaint as an error of this package, with the value's path."""
    first = error.errors(include_url=False)[0]
    path = path_of(first["loc"])
    given = first.get("input")
    shown = f" (given: {given!r:.60})" if isinstance(given, str | int | float | bool) else ""
    return InvalidValueError(first["msg"].removeprefix("Value error, ") + shown, path)


def path_of(steps: Iterable[str | int]) -> str:
    """Return steps into a value as text.

    Examples
    --------
    >>> path_of(["content", 0, "text"])
    'content[0].text'
    """
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def attributes_of(value: object) -> dict[str, object]:
    """Return the fields of a mapping, a model, a dataclass or a plain object, one level deep and nested.

    Nested objects that are no plain JSON (a goal within a tree, a usage within a message) are
    taken apart in the same way; JSON values stay the very objects they were.
    """
    if isinstance(value, Mapping):
        found: dict[str, object] = dict(value)
    elif isinstance(value, BaseModel):
        found = {**value.__dict__, **(value.__pydantic_extra__ or {})}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        found = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    else:
        raise InvalidValueError(f"cannot take fields from a {type(value).__name__}")
    return {name: _plain(item) for name, item in found.items()}


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float | datetime | Decimal | Mapping):
        return value
    if isinstance(value, list | tuple):
        if value and all(not isinstance(item, str | int | float | Mapping | list | tuple | None) for item in value):
            return [_plain(item) for item in value]
        return value
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        return attributes_of(value)
    return attributes_of(value) if hasattr(value, "__dict__") else value


def updated(model: Model, updates: Mapping[str, object]) -> Model:
    """Return a copy of `model` with fields replaced, validated.

    Raises
    ------
    UnknownFieldError
        A name is no field of the model, or names its identity.
    InvalidValueError
        A value breaks the model's rules.
    """
    kind = type(model).__name__.lower()
    known = type(model).model_fields
    for name in updates:
        if name not in known:
            raise UnknownFieldError(f"a {kind} has no field {name!r}; it has {', '.join(known)}")
        if name in cast("Any", type(model)).fixed:
            raise UnknownFieldError(f"the field {name!r} of a {kind} identifies it and cannot change")
    fields = {**model.__dict__, **(model.__pydantic_extra__ or {})}
    fields.update({name: _plain(value) for name, value in updates.items()})
    return type(model).parse(fields)
