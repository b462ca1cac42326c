# `make help` lists what there is to type. Everything that make makes is in .venv, .build and .local.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1

FOR_TOOLS := python3-venv
FOR_CONTAINERS := podman runc netavark aardvark-dns iptables mmdebstrap openssh-client
FOR_QUICK_TESTS := haproxy openssl
FOR_MACHINES := qemu-system-x86 e2fsprogs
FOR_TESTS := $(FOR_QUICK_TESTS) chromium chromium-driver libnss3-tools valgrind
# the longest first, for LANES of them run side by side
SCENARIOS := faults fleet modes default tls apps
LANES := 2
DEPLOYS := 20
MOMENTS := 20
PYTHON_FILES := conftest.py app plugins roles runner scripts tests molecule benchmarks examples
PORT := 8888
RELEASE = $(if $(APP),-e app=$(APP)) $(if $(VERSION),-e tornado_app_version=$(VERSION))
DIR :=

##@ A first look
.PHONY: up
up: tools packages-containers ## Set up everything: tools, a fleet of containers, the site on it
	@python scripts/local_secrets.py .local/secrets.json
	ansible-playbook playbooks/create_containers.yml site.yml playbooks/status.yml
	@echo
	@limit=$$(ulimit -Hn); if [ "$$limit" != unlimited ] && [ "$$limit" -lt 50000 ]; then \
	  echo "Each process may open $$limit files, all that this machine lets a container have; 50000 on hosts of your own."; fi
	@echo "The site is up: http://127.0.0.1:8080/, and beside it a chat: http://chat.localhost:8080/"
	@echo "With TLS: curl --cacert .local/ca/ca.pem https://127.0.0.1:8443/"
	@python -c "import json; print('Sign in with the password', json.load(open('.local/secrets.json'))['password'])"

.PHONY: status
status: tools ## Show what users, services and the next boot of the local fleet find, every process and the last deploys
	ansible-playbook playbooks/status.yml

.PHONY: deploy
deploy: tools ## Deploy what differs to the local fleet, or APP=board alone; VERSION=1.4.2 names its release
	ansible-playbook playbooks/deploy.yml $(RELEASE)

.PHONY: rollback
rollback: tools ## Take APP=board of the local fleet back to the release before, or to VERSION=1.4.1
	ansible-playbook playbooks/rollback.yml $(RELEASE)

.PHONY: proof
proof: tools packages-containers ## Deploy twenty times under traffic and count every request; DEPLOYS=3 for fewer
	molecule destroy --scenario-name fleet
	molecule converge --scenario-name fleet
	PYTHONPATH=tests python -m proof --deploys $(DEPLOYS) --out .build/proof \
	  --door balancer=http://127.0.0.1:8120 --door app1=http://127.0.0.1:8121 --door app2=http://127.0.0.1:8122 \
	  'python -m support.release 1.0.$$PROOF_DEPLOY .build/testapp && ansible-playbook playbooks/deploy.yml \
	    -i molecule/inventory/fleet.yml -e tornado_app_source=$(CURDIR)/.build/testapp'
	molecule destroy --scenario-name fleet

.PHONY: bench
bench: tools packages-containers ## Measure it beside Tornado's recipe and others; ONLY=static for one part, INVENTORY=… for other hosts
	@scripts/system-packages haproxy openssl wrk nghttp2-client
	PYTHONPATH=tests:runner/src python benchmarks/bench.py $(if $(INVENTORY),--inventory $(INVENTORY)) $(ONLY)

.PHONY: down
down: tools ## Remove the local fleet
	ansible-playbook playbooks/destroy_containers.yml

##@ A site of your own
.PHONY: new
new: ## Make a directory for a site of your own; DIR=../mysite says where
	@python3 scripts/new_site.py $(or $(DIR),$(error DIR: got nothing; expected a new directory, as in make new DIR=../mysite))

##@ Development
.PHONY: dev
dev: tools ## Run app/ here in debug mode, without a container, and restart it after each change; PORT=8889 for another port
	@python scripts/local_secrets.py .local/secrets.json
	@python scripts/dev_settings.py .local
	@echo "The board is at http://127.0.0.1:$(PORT)/; edit app/ and see. Ctrl-C ends it."
	@PYTHONPATH=app/src:runner/src exec python -m tornado.autoreload -m eyewall -- \
	  --debug --port $(PORT) --settings .local/dev.json --release dev --drain-timeout 0 --watchdog-timeout 0 board:make_app

.PHONY: test
test: lint tests molecule ## Run every test: linters, pytest, and molecule with testinfra on containers

.PHONY: check
check: tools ## Run the linters and the quick tests, which need no container: two to four minutes
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint quick-tests

.PHONY: lint
lint: tools
	ruff format --check $(PYTHON_FILES)
	ruff check $(PYTHON_FILES)
	MYPYPATH=runner/src mypy --strict runner/src
	MYPYPATH=app/src mypy --strict app/src
	MYPYPATH=tests mypy --strict tests/proof
	MYPYPATH=collections mypy --strict -p ansible_collections.eyewall.tornado.plugins
	MYPYPATH=benchmarks:benchmarks/on_host:tests:runner/src:app/src mypy --strict scripts benchmarks/*.py
	MYPYPATH=benchmarks/on_host:tests:runner/src:app/src mypy --strict benchmarks/on_host/*.py
	MYPYPATH=tests/apps/testapp/src mypy --strict tests/apps/testapp/src
	ansible-lint --offline
	@$(MAKE) --no-print-directory docs

.PHONY: docs
docs: .build/docs-venv/.complete ## Build the documentation site in .build/site, and fail on a broken link
	NO_MKDOCS_2_WARNING=1 .build/docs-venv/bin/mkdocs build --strict

.build/docs-venv/.complete: .venv/.complete requirements/docs.txt
	.venv/bin/uv venv --quiet --clear --python .venv/bin/python $(@D)
	.venv/bin/uv pip sync --quiet --python $(@D)/bin/python --require-hashes requirements/docs.txt
	@touch $@

# Some tests are of time, and others run beside them on a machine that may have other work: what failed has to pass alone.
ONCE_MORE = { echo "What failed, once more and alone:"; python -m pytest -q --last-failed --last-failed-no-failures none; }

.PHONY: quick-tests
quick-tests: tools
	@scripts/system-packages $(FOR_QUICK_TESTS)
	python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder -m 'not slow' || $(ONCE_MORE)

.PHONY: tests
tests: tools ## Run every test without a container, the page in a real browser among them
	@scripts/system-packages $(FOR_TESTS)
	python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder || $(ONCE_MORE)

.PHONY: molecule
molecule: tools packages-containers ## Run molecule's scenarios on containers, two at a time; LANES=1 for one after the other
	@# every image and the key once, before several scenarios would make them at the same time: `tls` has hosts of each kind
	molecule create --scenario-name tls
	@$(MAKE) --no-print-directory --jobs=$(LANES) --keep-going --output-sync=target $(SCENARIOS:%=scenario-%)

.PHONY: $(SCENARIOS:%=scenario-%)
$(SCENARIOS:%=scenario-%): scenario-%:
	molecule test --scenario-name $*

.PHONY: machine
machine: tools packages-containers ## Test what needs its own kernel in an emulated virtual machine; not part of test
	@scripts/system-packages $(FOR_MACHINES)
	molecule test -s machine

.PHONY: power-cut
power-cut: tools packages-containers ## Cut the power of a host at twenty moments of a deploy; MOMENTS=3 for fewer; not part of test
	MOMENTS=$(MOMENTS) python -m pytest -q molecule/power/tests

.PHONY: lock
lock: tools ## Update the lock files
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --group uv --output-file requirements/uv.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --group dev --output-file requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --group docs --output-file requirements/docs.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --group site --output-file requirements/site.txt --constraint requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --group build --output-file requirements/build.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --resolution lowest-direct \
	  --custom-compile-command 'make lock' --output-file requirements/oldest.txt runner/pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --output-file requirements/runner.txt runner/pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	  --custom-compile-command 'make lock' --output-file requirements/runner-gunicorn.txt --extra gunicorn \
	  --constraint requirements/runner.txt runner/pyproject.toml
	for project in app tests/apps/testapp examples/bokeh examples/chat examples/flower examples/jupyter \
	  examples/jupyterhub examples/thumbor; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
	    --custom-compile-command 'make lock' --output-file $$project/requirements.lock $$project/pyproject.toml || exit 1; \
	done

.PHONY: collection
collection: tools ## Build the collection eyewall.tornado, a tarball in .build
	ansible-galaxy collection build --force --output-path .build

.PHONY: clean
clean: ## Remove what make made, except the local fleet
	rm -rf .venv .build .mypy_cache .pytest_cache .ruff_cache

##@ Parts
.PHONY: tools
tools: .venv/.complete ## Make the virtualenv with Ansible, molecule and the linters

.venv/.complete: requirements/uv.txt requirements/dev.txt
	@scripts/system-packages $(FOR_TOOLS)
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	@# compiled here, for PYTHONDONTWRITEBYTECODE keeps every run from doing it: a deploy's 7.2 s of CPU become 5.8
	.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements/dev.txt
	@touch $@

.PHONY: packages-containers
packages-containers:
	@scripts/system-packages $(FOR_CONTAINERS)

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
