"""The dashboard: pages for people, made on the server from the records alone."""

from __future__ import annotations

from ls_backend.web.ui.pages import blueprint as blueprint
