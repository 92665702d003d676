"""Names to classes: the one way a solver, a schedule or a model is found and built from JSON.

A registered class is a frozen dataclass. Its fields are the keys of its JSON, of a search space and of a card, so that
no second description of a method exists anywhere. Nothing here imports more than the standard library.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class SpecError(ValueError):
    """A user's mistake, told in one line: where, what was given, what is allowed, the nearest name.

    Everything that a person can write wrongly (a study file, a card, an option) ends here and leaves the command with
    status 2 and no traceback.
    """

    def __init__(
        self,
        message: str,
        *,
        given: object = None,
        allowed: Iterable[str] | str | None = None,
        path: str = "",
        file: str = "",
    ) -> None:
        self.message, self.given, self.allowed, self.path, self.file = message, given, allowed, path, file
        super().__init__(str(self))

    def __str__(self) -> str:
        where = " ".join(part for part in (f"{self.file}:" if self.file else "", f"{self.path}:" if self.path else ""))
        text = f"{where.strip()} {self.message}".strip()
        if self.given is not None:
            text += f", given {self.given!r}"
        if isinstance(self.allowed, str):
            text += f"; allowed: {self.allowed}"
        elif self.allowed is not None:
            names = list(self.allowed)
            text += f"; allowed: {', '.join(names) or 'none'}"
            near = difflib.get_close_matches(str(self.given), names, n=1, cutoff=0.5)
            if near:
                text += f"; did you mean {near[0]!r}?"
        return text

    def under(self, path: str = "", file: str = "") -> SpecError:
        """The same mistake, with the place where it was found put in front."""
        joined = ".".join(part for part in (path, self.path) if part)
        return SpecError(self.message, given=self.given, allowed=self.allowed, path=joined, file=file or self.file)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments: without this the error would not survive the way back from a worker.
        return _rebuild, (self.message, self.given, self.allowed, self.path, self.file)


def _rebuild(message: str, given: object, allowed: Any, path: str, file: str) -> SpecError:
    return SpecError(message, given=given, allowed=allowed, path=path, file=file)


def require(condition: bool, key: str, given: object, allowed: str) -> None:
    """Raise a `SpecError` about `key` unless `condition` holds; for the range checks of a dataclass."""
    if not condition:
        raise SpecError("is out of range", path=key, given=given, allowed=allowed)


class Registry(Generic[T]):
    """Classes by name. `register` adds one, `build` makes an instance from `{"name": ..., **fields}`.

    `plugins` are modules that register classes when imported, and packages of such modules: they are imported by name
    at the first look-up, so that what defines the contract does not import what fulfils it.
    """

    def __init__(self, kind: str, plugins: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._plugins = plugins
        self._classes: dict[str, type[Any]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: file the class under `name`. A second class of that name is a programming error."""

        def add(cls: C) -> C:
            held = self._classes.get(name)
            if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"two {self.kind}s are called {name!r}: {held.__module__} and {cls.__module__}")
            self._classes[name] = cls
            cls.registry_name = name  # type: ignore[attr-defined]  # registered classes declare it
            return cls

        return add

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._fill()
        return sorted(self._classes)

    def get(self, name: str) -> type[Any]:
        """The class called `name`; a `SpecError` names the nearest one if there is none."""
        self._fill()
        if name not in self._classes:
            raise SpecError(f"unknown {self.kind}", given=name, allowed=self.names())
        return self._classes[name]

    def build(self, spec: Mapping[str, Any]) -> T:
        """Build the instance that `spec` describes, after checking every key and type.

        Raises:
            SpecError: no or unknown name, unknown or missing key, wrong type, value out of range.
        """
        if not isinstance(spec, Mapping):
            raise SpecError(f"a {self.kind} is a mapping with a name", given=spec, allowed='{"name": ..., ...}')
        if "name" not in spec:
            raise SpecError(f"a {self.kind} needs a name", path="name", given=dict(spec), allowed=self.names())
        name = spec["name"]
        if not isinstance(name, str):
            raise SpecError(f"the name of a {self.kind} is a string", path="name", given=name, allowed=self.names())
        try:
            cls = self.get(name)
        except SpecError as error:
            raise error.under("name") from None
        built: T = build_dataclass(cls, {key: value for key, value in spec.items() if key != "name"})
        return built

    def _fill(self) -> None:
        plugins, self._plugins = self._plugins, ()
        import_all(plugins)


def import_all(names: Iterable[str]) -> None:
    """Import these modules; of a package, every module in its folder: dropping a file in is all it takes."""
    for name in names:
        module = importlib.import_module(name)
        for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
            importlib.import_module(f"{name}.{found.name}")


def build_dataclass(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make the dataclass `cls` from JSON values: unknown keys and wrong types are errors that name the field."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]  # a dataclass by contract
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise SpecError("unknown key", path=str(key), given=key, allowed=sorted(fields))
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and key not in values:
            raise SpecError("is required and missing", path=key, allowed=_describe(hints[key]))
    return cls(**{key: _convert(value, hints[key], key) for key, value in values.items()})


def to_spec(instance: Any) -> dict[str, Any]:
    """The JSON of a registered instance: `build` of it gives an equal instance."""
    spec: dict[str, Any] = {"name": instance.registry_name}
    for field in dataclasses.fields(instance):
        if not field.init:
            continue
        value = getattr(instance, field.name)
        spec[field.name] = list(value) if isinstance(value, tuple) else value
    return spec


def _convert(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), key)
    if origin is Literal:
        # By type too: True and 2.0 equal whole numbers, but a solver counts with its order.
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise SpecError("is not one of the choices", path=key, given=value, allowed=[str(a) for a in arguments])
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, arguments[0], f"{key}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise SpecError("is too large", path=key, allowed="a number of double precision") from None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    raise SpecError("has the wrong type", path=key, given=value, allowed=_describe(hint))


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _describe(a) for a in arguments)
    if origin is Literal:
        return ", ".join(str(a) for a in arguments)
    if origin is tuple:
        return f"a list of {_describe(arguments[0])}"
    if origin is not None:
        return "a mapping"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "text"}.get(hint, str(hint))
