"""Requests for GPUs. Invariant: they have the form of the engine's API, ``DeviceRequests`` of ``POST /containers/create``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zcell.errors import LaunchError

ALL = -1
_FIELDS = {"driver": "Driver", "count": "Count", "deviceids": "DeviceIDs", "capabilities": "Capabilities", "options": "Options"}


def device_requests(
    job: Mapping[str, Any], site: Mapping[str, Any], *, job_place: str = "job", site_place: str = "site"
) -> list[dict[str, Any]]:
    """The requests for one job: the job's ``device_requests``, else its ``num_of_gpus``, else the site's of either name.

    The first that is there decides alone; ``num_of_gpus`` 0, or an empty list, asks for none. Raises `LaunchError` naming the
    setting that is wrong.
    """
    for place, settings in ((job_place, job), (site_place, site)):
        if settings.get("device_requests") is not None:
            return _checked(settings["device_requests"], f"{place}: device_requests")
        if settings.get("num_of_gpus") is not None:
            return _counted(settings["num_of_gpus"], f"{place}: num_of_gpus")
    return []


def _counted(number: Any, place: str) -> list[dict[str, Any]]:
    if number == "all":
        number = ALL
    if isinstance(number, bool) or not isinstance(number, int) or number < ALL:
        raise LaunchError(f'{place} must be a number from 0, or "all", got {number!r}')
    if number == 0:
        return []
    return [{"Driver": "", "Count": number, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]


def _checked(requests: Any, place: str) -> list[dict[str, Any]]:
    if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Sequence):
        raise LaunchError(f"{place} must be a list of requests, such as [{{'Count': 1, 'Capabilities': [['gpu']]}}]")
    return [_request(request, f"{place}[{index}]") for index, request in enumerate(requests)]


def _request(request: Any, place: str) -> dict[str, Any]:
    """One request with all of the API's fields; a field may be written as the API does or as ``device_ids``."""
    if not isinstance(request, Mapping):
        raise LaunchError(f"{place} must be a mapping, got {request!r}")
    found: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    for key, value in request.items():
        field = _FIELDS.get(str(key).replace("_", "").lower())
        if field is None:
            raise LaunchError(f"{place} has a field {key!r}; it may have {', '.join(sorted(_FIELDS.values()))}")
        if value is not None:
            found[field] = value
    _check_types(found, place)
    if not found["Count"] and not found["DeviceIDs"]:
        raise LaunchError(f"{place} asks for nothing: give Count (-1: all) or DeviceIDs")
    if found["Count"] and found["DeviceIDs"]:
        raise LaunchError(f"{place} has both Count and DeviceIDs; give one of them")
    return found


def _check_types(found: Mapping[str, Any], place: str) -> None:
    expected = (
        ("Driver", "a string", isinstance(found["Driver"], str)),
        ("Count", "a number from -1", type(found["Count"]) is int and found["Count"] >= ALL),
        ("DeviceIDs", "a list of strings", _strings(found["DeviceIDs"])),
        ("Capabilities", "a list of lists of strings", _lists_of_strings(found["Capabilities"])),
        ("Options", "a mapping of strings", _string_mapping(found["Options"])),
    )
    for field, wanted, good in expected:
        if not good:
            raise LaunchError(f"{place}: {field} must be {wanted}, got {found[field]!r}")


def _strings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) and text for text in value)


def _lists_of_strings(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(_strings(item) and item for item in value)


def _string_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
