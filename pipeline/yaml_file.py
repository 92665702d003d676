"""Reading YAML as data: safely, with the numbers people write (1e-3), and errors of one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.registry import SpecError


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where 1e-3 is text; here it is a number. A key given twice is an error, not the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                line = key_node.start_mark.line + 1
                raise SpecError(f"is given twice (line {line})", path=str(key_node.value))
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a `SpecError` names the file if there is none."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # nosec B506  # a SafeLoader
        json.dumps(value, default=str, skipkeys=True)  # refuses an alias to what it stands in
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", file=str(path)) from None
    except UnicodeDecodeError:
        raise SpecError("cannot be read (not UTF-8)", file=str(path)) from None
    except SpecError as error:
        raise error.under(file=str(path)) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where is not None else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise SpecError(f"is not YAML{line}: {reason}", file=str(path)) from None
    except (RecursionError, TypeError, ValueError) as error:
        # Nested without end, a mapping as a key, a number of thousands of digits: PyYAML lets Python's errors through.
        raise SpecError(f"cannot be read ({error})", file=str(path)) from None
    if not isinstance(value, dict):
        raise SpecError("holds no mapping", file=str(path), given=type(value).__name__, allowed="keys and values")
    return value


def mistake(error: ValidationError, model: type[BaseModel]) -> SpecError:
    """The first of pydantic's complaints as one line: key, given, allowed, nearest name."""
    first = error.errors()[0]
    path = _dotted(first["loc"])
    held = first.get("ctx", {}).get("error")
    if isinstance(held, SpecError):  # one that a validator raised; pydantic took it for a plain ValueError
        if held.path.startswith("["):
            return SpecError(held.message, given=held.given, allowed=held.allowed, path=path + held.path)
        return held.under(path)
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        owner = _model_at(model, first["loc"][:-1])
        return SpecError("unknown key", path=path, given=key, allowed=sorted(owner.model_fields))
    if first["type"] == "missing":
        return SpecError("is required and missing", path=path)
    if first["type"] == "literal_error":
        allowed = str(first["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        return SpecError("is not one of the choices", path=path, given=first["input"], allowed=allowed.split(", "))
    if first["type"] == "model_type":
        owner = _model_at(model, first["loc"])
        allowed = f"a mapping with {', '.join(owner.model_fields)}"
        return SpecError("has the wrong type", path=path, given=_short(first["input"]), allowed=allowed)
    message = first["msg"].removeprefix("Value error, ")
    return SpecError(message[0].lower() + message[1:], path=path, given=_short(first["input"]))


def _dotted(loc: tuple[int | str, ...]) -> str:
    """Pydantic's place as the path that every other message has: budgets[1], floor.solver."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return path.removeprefix(".")


def _short(value: object) -> object:
    if value is None:
        return "null"  # as it stands in the file; a None would say that nothing was given
    text = repr(value)
    return value if len(text) <= 80 else text[:77] + "..."


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    for part in loc:
        field = model.model_fields.get(str(part))
        held = [] if field is None else [field.annotation, *get_args(field.annotation)]  # also a model or None
        inner = next((one for one in held if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if inner is None:
            break
        model = inner
    return model
