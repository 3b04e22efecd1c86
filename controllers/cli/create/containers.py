"""Containers of images, as kubectl makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_UNFIT = re.compile(r"[^a-z0-9-]+")


def containers_of(images: Sequence[str], command: Sequence[str] = (), port: int | None = None) -> list[dict[str, Any]]:
    """A container for each image, named after it. Only one of a single image has a command, only the first a port."""
    made: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        name = name_of_image(image)
        if any(each["name"] == name for each in made):
            name = f"{name}-{number}"
        made.append({"name": name, "image": image})
    if command and made:
        made[0]["command"] = [*command]
    if port is not None and made:
        made[0]["ports"] = [{"containerPort": port}]
    return made


def name_of_image(image: str) -> str:
    """`example.com/team/Web_App:1.2` as `web-app`."""
    last = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return _UNFIT.sub("-", last.lower()).strip("-")[:63] or "container"
