"""pytest plugin: `pytest --dsr-bundle X.dsr` makes one test of each check of a bundle. PYTEST_DONT_REWRITE

Loaded by every pytest where this package is installed, so it imports nothing but pytest until a bundle is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dsr_export.verification.for_test_runners import BundleChecks, Planned

RUNTIMES = ("auto", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")


class CheckFailedError(Exception):
    """What a failing test shows, without a traceback: the code is not what is wrong."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dsr-export", "bundles of dsr-export")
    group.addoption(
        "--dsr-bundle",
        dest="dsr_bundles",
        action="append",
        default=[],
        metavar="BUNDLE",
        help="Test the checks of this bundle: hashes, precision, each parity row; repeatable.",
    )
    group.addoption("--dsr-runtime", default="auto", choices=RUNTIMES, help="Where bundles are run. [default: auto]")
    group.addoption(
        "--dsr-trust",
        action="append",
        default=[],
        metavar="PUBKEY",
        help="Refuse bundles that this key (PEM or OpenSSH, Ed25519) did not sign; any one of several.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "dsr_bundle: a check of a bundle given with --dsr-bundle")


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose, so that they choose among these tests too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for given in config.getoption("dsr_bundles"):
        collector = BundleFolder.from_parent(session, path=config.invocation_params.dir / given)
        items.extend(session.genitems(collector))


class BundleFolder(pytest.File):
    """A bundle, as a collector of its checks. One that cannot be opened has a single test, which says why."""

    def collect(self) -> Iterator[pytest.Item]:
        from dsr_export.verification.for_test_runners import BundleChecks

        given = self.config.invocation_params.dir
        trust = [given / key for key in self.config.getoption("dsr_trust")]
        checks = BundleChecks(path=self.path, runtime=self.config.getoption("dsr_runtime"), trust=trust)
        yield self._item("hashes", partial(_hashes, checks))
        if checks.problem is not None:
            return
        for check in checks.planned():
            yield self._item(check.name, partial(_outcome, checks, check))
        yield self._item("verdict", partial(_verdict, checks))

    def _item(self, name: str, run: Callable[[], None]) -> pytest.Item:
        item: pytest.Item = CheckItem.from_parent(self, name=name)
        assert isinstance(item, CheckItem)
        item.run = run
        return item


class CheckItem(pytest.Item):
    """One check."""

    run: Callable[[], None]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.add_marker("dsr_bundle")

    def runtest(self) -> None:
        from dsr_export.errors import ExportError

        try:
            self.run()
        except ExportError as error:
            raise CheckFailedError(
                "\n".join([error.message, *([f"hint: {error.hint}"] if error.hint else [])])
            ) from error

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *given: Any, **options: Any) -> Any:
        if isinstance(excinfo.value, CheckFailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *given, **options)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


def _hashes(checks: BundleChecks) -> None:
    if checks.problem is not None:
        raise checks.problem


def _outcome(checks: BundleChecks, check: Planned) -> None:
    _fail(checks.failure(check))


def _verdict(checks: BundleChecks) -> None:
    """The report as a whole: a check that this plugin knows nothing of must not fail unseen."""
    unseen = checks.unplanned_failures()
    if unseen:
        _fail(f"{checks.path}: failed, without a test of its own: {', '.join(unseen)}")


def _fail(problem: str | None) -> None:
    if problem is not None:
        raise CheckFailedError(problem)
