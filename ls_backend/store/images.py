"""What was measured on images, by content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields

from sqlalchemy import select

from ls_backend.domain import ImageFacts
from ls_backend.store.database import Database, chunks, replace_rows
from ls_backend.store.schema import image_facts

_FACTS = tuple(image_facts.c[item.name] for item in fields(ImageFacts))


class Images:
    """Records of images."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, facts: Mapping[str, ImageFacts]) -> None:
        """Store what was measured, by content hash; later measurements replace earlier ones."""
        rows = [{"content_hash": content, **asdict(found)} for content, found in facts.items()]
        with self._database.write() as connection:
            for batch in chunks(rows):
                replace_rows(connection, image_facts, batch)

    def get(self, hashes: Iterable[str]) -> dict[str, ImageFacts]:
        """Return what is known of some images; those never measured are left out."""
        found: dict[str, ImageFacts] = {}
        with self._database.read() as connection:
            for batch in chunks(set(hashes)):
                statement = select(image_facts.c.content_hash, *_FACTS).where(image_facts.c.content_hash.in_(batch))
                found.update((row[0], ImageFacts(*row[1:])) for row in connection.execute(statement))
        return found

    def known(self) -> set[str]:
        """Return the content hashes of all images that were measured."""
        with self._database.read() as connection:
            return set(connection.scalars(select(image_facts.c.content_hash)))
