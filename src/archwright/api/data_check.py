"""Checks that data sets are what their records say."""

from archwright.api.context import open_home
from archwright.lake.tables import version_index
from archwright.lake.version_check import VersionCheck, check_versions

__all__ = ["VersionCheck", "check_datasets"]


def check_datasets(name: str | None) -> VersionCheck:
    """Check a version, all versions of a data set, or all versions of the home."""
    with open_home() as (_settings, home, store):
        versions = version_index.list_versions(store)
        if name is not None:
            found = [version for version in versions if name in (version.id, version.dataset)]
            versions = found or [version_index.find_version(store, name)]
        return check_versions(home, versions)
