"""The documents name what is there: targets, files, links, variables."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from support import REPOSITORY
from support.product import ROLE_NAMES, load_python, load_yaml, options_of, plugin

WRITTEN = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/variables.md", "docs/host-layout.md"]
DOCUMENTS = sorted({*WRITTEN, *(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md"))})
PACKAGES = [str(path.relative_to(REPOSITORY)) for path in sorted(REPOSITORY.glob("[!.]*/README.md"))]
ROLE_READMES = [f"roles/{role}/README.md" for role in ROLE_NAMES]
FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
FOLDERS = sorted(path.name for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
PATH = re.compile(rf"(?<![\w/.@-])(?:(?:{'|'.join(FOLDERS)})/[\w./*+-]*|site\.yml|Makefile|ansible\.cfg)")

reference_pages = load_python(REPOSITORY / "scripts" / "reference_pages.py", "reference_pages")


def read(document: str) -> str:
    path = REPOSITORY / document
    assert path.is_file(), f"{document} is not written"
    return path.read_text(encoding="utf-8")


def code_in(text: str) -> Iterator[str]:
    """Return what stands as code: blocks, and spans outside of them."""
    for block in FENCED.finditer(text):
        yield block[0]
    yield from re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def targets() -> set[str]:
    makefiles = [REPOSITORY / "Makefile", REPOSITORY / "site_template" / "Makefile"]
    return {target for file in makefiles for target in re.findall(r"^([a-z][a-z-]*):", file.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_exists(document: str) -> None:
    command = re.compile(r"(?:^|&& |; )\s*make ([a-z][a-z-]*)", re.MULTILINE)
    named = {target for code in code_in(read(document)) for target in command.findall(code)}
    assert named <= targets()


def test_readme_has_the_two_commands() -> None:
    named = {code for code in code_in(read("README.md")) if re.search(r"^make (up|test)\b", code, re.MULTILINE)}
    assert any("make up" in code and "make test" in code for code in named)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_of_this_repository_exists(document: str) -> None:
    text = read(document)
    # what the README tells a reader to copy is looked for in what it is a copy of
    copies = re.findall(r"^\s*cp -r (\S+) (\S+)$", f"{read('README.md')}\n{text}", re.MULTILINE)
    missing = set()
    for code in code_in(text):
        for named in PATH.findall(code):
            path = named.rstrip("./") if "*" not in named else named
            for source, copy in copies:
                if path == copy or path.startswith(f"{copy}/"):
                    path = source + path[len(copy) :]
            if not list(REPOSITORY.glob(path)):
                missing.add(named)
    assert missing == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_playbook_that_is_run_exists(document: str) -> None:
    for code in code_in(read(document)):
        for arguments in re.findall(r"ansible-playbook ([^\n`#]+)", code):
            named = re.findall(r"\beyewall\.tornado\.(\w+)", arguments)
            playbooks = [word for word in arguments.split() if word.endswith(".yml")] + [
                f"playbooks/{name}.yml" for name in named
            ]
            assert playbooks, f"ansible-playbook {arguments}"
            assert all((REPOSITORY / playbook).is_file() for playbook in playbooks), arguments


def anchors(text: str) -> set[str]:
    """Return the anchors that headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, *PACKAGES, *ROLE_READMES])
def test_every_link_leads_somewhere(document: str) -> None:
    text = FENCED.sub("", read(document))
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (REPOSITORY / document).parent / name if name else REPOSITORY / document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("path", reference_pages.PAGES)
def test_the_pages_of_the_reference_are_current(path: str) -> None:
    assert read(path) == reference_pages.page(path), "run: python scripts/reference_pages.py"


def test_the_table_of_renamed_inputs_is_what_a_run_refuses() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", read("docs/upgrading.md"), re.MULTILINE))
    assert table == plugin("plugin_utils", "known_variables").RENAMED
    assert set(table.values()) <= {name for role in ROLE_NAMES for name in options_of(role)}
    assert not set(table) & {name for role in ROLE_NAMES for name in options_of(role)}


def test_the_page_has_every_variable_once_in_its_roles_section() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", read("docs/variables.md"), re.MULTILINE | re.DOTALL))
    assert list(sections) == ROLE_NAMES
    for role, section in sections.items():
        assert re.findall(r"^### `(\w+)`$", section, re.MULTILINE) == list(options_of(role))


MODULES = {path.stem: reference_pages.documentation(path) for path in sorted(REPOSITORY.glob("plugins/modules/*.py"))}


def test_the_page_has_every_module_and_its_options() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", read("docs/modules.md"), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(MODULES)
    for name, section in sections.items():
        assert re.findall(r"^- `(\w+)` \(", section, re.MULTILINE) == list(MODULES[name].get("options", {}))


@pytest.mark.parametrize("name", MODULES)
def test_an_option_of_a_module_says_what_ansible_knows(name: str) -> None:
    """A comma in a description without quotes would end it, and the rest would be a key."""
    known = {"type", "elements", "required", "default", "choices", "description", "suboptions"}
    options = list(MODULES[name].get("options", {}).values())
    for option in options:
        options += option.get("suboptions", {}).values()
        assert {"type", "description"} <= set(option) <= known


@pytest.mark.parametrize(
    ("description", "markdown"),
    [
        ("C(auto), or a number.", "`auto`, or a number."),
        ("One, I(two).", "One, `two`."),
        (
            "A pipe C(a|b), a <tag> and some_name.",
            r"A pipe `a|b`, a \<tag\> and some\_name.",
        ),
        ("C(f(x)) and V(true).", "`f(x)` and `true`."),
        ("As M(eyewall.tornado.handover) does.", "As [`handover`](modules.md#handover) does."),
        ("ABC(x) is no markup.", "ABC(x) is no markup."),
    ],
)
def test_markup_of_descriptions(description: str, markdown: str) -> None:
    assert reference_pages.as_markdown(description) == markdown


@pytest.mark.parametrize("document", [*DOCUMENTS, *PACKAGES, *ROLE_READMES])
def test_every_variable_that_a_document_names_is_one(document: str) -> None:
    known = {name for role in ROLE_NAMES for name in options_of(role)}
    modules = {path.stem for path in REPOSITORY.glob("plugins/modules/*.py")}
    known |= plugin("plugin_utils", "known_variables").FACTS
    known |= set(plugin("plugin_utils", "known_variables").RENAMED) if document == "docs/upgrading.md" else set()
    for code in code_in(read(document)):
        if "got a variable that the role" in code:
            continue  # it shows what a typo looks like
        named = set(re.findall(rf"(?<![\w/.-])(?:{'|'.join(ROLE_NAMES)})_[a-z_]+(?![\w/.*])", code))
        assert named <= known | modules, f"`{code}`"


# What root would obey of whoever may write to the directory that it stands in, unless told otherwise; each with a mistake.
OBEYS = {
    r"supervisorctl (?:status|pid|start|stop|restart|update|reload|reread|signal|tail|shutdown)\b": "supervisorctl status",
    r'"supervisorctl", (?!"-c", )': '"supervisorctl", "status"',
    r"(?:tail|grep|less|cat) [^\n`|]*/var/log/board/[^`\n]*(?<!cat -v)(?=[`\n])": "tail /var/log/board/x.log\n",
}
# The recipe and what people type are quoted there, and a command line of ours is tested with a stand-in of its own.
QUOTES = {"README.md", "docs/performance.md", "benchmarks/deploys.py", "tests/test_docs.py"}


@pytest.mark.parametrize(("mistake", "example"), OBEYS.items(), ids=["words", "list", "log"])
def test_root_obeys_nobody_but_its_own_configuration_and_no_log(mistake: str, example: str) -> None:
    assert re.search(mistake, example)
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.*") if path.is_file()]
    found = {
        f"{name}: {line[0]}"
        for path in [*REPOSITORY.glob("*.*"), *files]
        if path.suffix in {".md", ".py", ".j2", ".yml", ".sh"}
        if (name := str(path.relative_to(REPOSITORY))) not in QUOTES
        for line in re.finditer(mistake, path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_version_is_one_and_has_its_part_of_the_changelog() -> None:
    version = load_yaml(REPOSITORY / "galaxy.yml")["version"]
    assert tomllib.loads(read("runner/pyproject.toml"))["project"]["version"] == version
    assert f'__version__ = "{version}"' in read("runner/src/eyewall/__init__.py")
    assert re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.MULTILINE)[0] == version
