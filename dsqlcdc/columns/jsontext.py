"""The `json` column: its text exactly as sent, parsed when asked, spliced into the JSON form without passing through Python's numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NoReturn, Self

import msgspec
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core import core_schema as cs

from dsqlcdc.columns.kinds import COLUMNS, column


class Json(msgspec.Struct, frozen=True, gc=False):
    """A `json` value. `text` is the JSON text as the database has it, spaces, repeated keys and digits included; two are equal if their
    texts are.

    Make one of a text by `Json.parse`, of Python values by `Json.of`; the constructor does not look at the text.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what is no JSON text (NaN is none) or is nested beyond what Python's recursion takes (about 1,000)."""
        try:
            msgspec.json.decode(text, type=msgspec.Raw)
        except msgspec.DecodeError:
            _load(text)  # lone surrogates are JSON to PostgreSQL, and only to msgspec they are not
        except RecursionError:
            raise ValueError("JSON nested too deep") from None
        return cls(text)

    @classmethod
    def of(cls, value: Any) -> Self:
        """The text of Python values: dicts with string keys, lists, strings, numbers, booleans, None. Raises TypeError, ValueError."""
        return cls(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))

    def value(self) -> Any:
        """Parsed, anew at each call; numbers that are not whole come as Decimal, exact. Of repeated keys the last counts."""
        return _load(self.text)

    def form(self) -> msgspec.Raw | str:
        """What stands in the JSON form: the value itself, its text taken over but for line ends between tokens.

        A text that strict readers refuse (a lone surrogate) would spoil the whole line for them: it stands there as a string.
        """
        text = self.text
        if "\\u" in text:
            try:
                msgspec.json.decode(text, type=msgspec.Raw)
            except msgspec.DecodeError:
                return text
        if "\n" in text or "\r" in text:
            return msgspec.Raw(msgspec.json.format(text, indent=-1))
        return msgspec.Raw(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return COLUMNS[cls].schema


def _load(text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal, parse_int=_whole, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None


def _whole(digits: str) -> Any:
    # Python refuses to read more than 4,300 digits as an int.
    return int(digits) if len(digits) < 4000 else Decimal(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError("NaN and infinities are not JSON")


def _read(sent: Any) -> Json:
    if type(sent) is str:
        try:
            return Json.parse(sent)
        except ValueError:
            pass
    raise PydanticCustomError("dsql_json", "a json is a string that holds a JSON text, nested at most about 1,000 deep")


def _form(value: Json) -> Any:
    return value.form()


def _text(value: Json) -> str:
    return value.text


def _plain(value: Json) -> Any:
    return json.loads(value.text)


COLUMNS[Json] = column("json", cs.no_info_plain_validator_function(_read), cs.is_instance_schema(Json), _form, _text, dumped=_plain)
