# SPDX-License-Identifier: GPL-2.0-or-later
# "make help" lists what there is.

PREFIX     ?= /usr
SYSCONFDIR ?= /etc
# VDSM looks for hooks here and nowhere else.
HOOKSDIR   ?= /usr/libexec/vdsm/hooks
DESTDIR    ?=
# The interpreter of the host: hooks and agent run on it.
PYTHON     ?= /usr/bin/python3
# Where that interpreter finds packages below PREFIX.
PURELIB    ?= $(shell $(PYTHON) packaging/purelib.py $(PREFIX))
# Where systemd looks for units.
UNITDIR    ?= $(PREFIX)/lib/systemd/system

# Of the packages; the version stands in one place only.
VERSION    := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' vif_driver/__init__.py)
RELEASE    ?= 1
# Where they go.
RPMDIR     ?= build/rpm
DEBDIR     ?= build/deb

# What the hooks load, compiled: to do that each time would take them longer than all the rest.
HOOK        = $(PREFIX)/libexec/vif-driver/vif_hook.py

# What vdsm-tool loads; root would compile it, and whoever removes it would not know of that.
TOOL        = $(PURELIB)/vdsm/tool/ovn_config.py

# Where packages are Debian's, rpm knows of none that it would find required for building.
RPMBUILD   ?= $(if $(wildcard /etc/debian_version),--nodeps)

# Interpreters that the unit tests run on besides the machine's own.
PYTHON39   ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python3.9) $(shell command -v python3.9))
PYTHON312  ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12) $(shell command -v python3.12))

# A line for the launchers where the interpreter would not look there by itself.
SEARCH      = $(shell $(PYTHON) -I -c "import sys; print('' if '$(PURELIB)' in sys.path else \
                  'sys.path.insert(0, \"$(PURELIB)\")')")

# $(call launcher,SOURCE,PATH,MODE): install a script that names paths below the prefix.
launcher = install -D -m $(3) $(1) "$(DESTDIR)$(2)" && sed -i \
    -e 's|/usr/libexec/vif-driver/|$(PREFIX)/libexec/vif-driver/|' \
    $(if $(SEARCH),-e 's|^from vif_driver|$(SEARCH)\n&|') "$(DESTDIR)$(2)"

# $(call unit,SOURCE,PATH): install a file for systemd, with the prefix in the paths of programs.
unit = install -D -m 0644 $(1) "$(DESTDIR)$(2)" && \
    sed -i -e 's|=/usr/sbin/vif-agent|=$(PREFIX)/sbin/vif-agent|' \
    -e 's|=-/usr/libexec/vif-driver/|=-$(PREFIX)/libexec/vif-driver/|' "$(DESTDIR)$(2)"

EVENTS := before_device_create after_vm_start before_nic_hotplug after_nic_hotplug after_nic_hotplug_fail \
          after_device_create after_device_destroy after_nic_hotunplug before_update_device \
          before_device_migrate_source before_device_migrate_destination \
          after_device_migrate_destination after_device_migrate_source \
          after_get_caps after_get_stats before_network_setup

# The role for host-deploy, and the files for the host-deploy of old.
ANSIBLE     := $(patsubst packaging/%,%,$(shell find packaging/ansible -type f))
HOST_DEPLOY := $(patsubst packaging/%,%,$(shell find packaging/host-deploy -type f))

VENVS  := build/venv
SYSTEM := $(VENVS)/system/bin/python
EL9    := $(VENVS)/el9/bin/python
LATEST := $(VENVS)/latest/bin/python

# How many processes share the unit tests: many a test waits more than it works.
WORKERS    ?= 4

# $(call unit-tests,INTERPRETER): they take seconds, the more so as what is compiled is kept.
unit-tests = PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(CURDIR)/build/pycache" \
    $(1) -m pytest -p no:cacheprovider -q -n $(WORKERS) tests/unit

# How many processes share the files of tests in the lab, each with labs of its own: one uses half
# of two processors.
LABS       ?= 2

# As in Open vSwitch's and OVN's own suites: whether what failed is run once more. Emulated guests on
# a busy machine may be too late for once; what is wrong fails again, and both runs are told of.
RECHECK    ?= yes

# They remember what failed. What outlasts even the lab's own watchdog ends the run.
lab-tests = $(SYSTEM) -m pytest -o cache_dir=build/pytest -o faulthandler_timeout=900 \
    -o faulthandler_exit_on_timeout=true -n $(LABS) --dist loadfile tests/lab

.DEFAULT_GOAL := help
.PHONY: help deps demo check check-unit check-lab lint install bench rpm deb clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: build/deps.stamp build/deps-others.stamp ## install what tests and demo need (apt, pip; as root)

demo: build/deps.stamp ## plug a VM's vNIC on a real lab of two hypervisors, ping it from the other; cut a host's power
	$(SYSTEM) -m tests.lab.demo

check: deps lint ## everything: lint, unit tests on three interpreters, the lab
	$(MAKE) check-unit
	$(MAKE) check-lab

check-unit: deps ## the fast tests, on this machine's python3, on EL9's libraries and on today's
	$(call unit-tests,$(SYSTEM))
	$(call unit-tests,$(EL9))
	$(call unit-tests,$(LATEST))

check-lab: deps ## the tests on real Open vSwitch, OVN, libvirt, QEMU and Neutron (RECHECK=no)
	$(lab-tests) --cache-clear --durations=20 --durations-min=10 || { [ $$?$(RECHECK) = 1yes ] && \
	    echo "*** What failed is run once more, in labs of its own:" && \
	    $(lab-tests) --last-failed --last-failed-no-failures none; }

lint: build/deps.stamp ## ruff, mypy --strict and ansible-lint
	$(SYSTEM) -m ruff check .
	$(SYSTEM) -m ruff format --check .
	$(SYSTEM) -m mypy
	ansible-lint --offline --strict packaging/ansible

bench: build/deps.stamp ## measure; prints a table and writes build/bench.json (ONLY=name for one of them)
	$(SYSTEM) -m tests.bench $(ONLY)

install: ## put everything in place below DESTDIR, with PREFIX (default /usr)
	umask 022 && base=$$(mktemp -d) && trap 'rm -rf "$$base"' EXIT && \
	env -u PYTHONDONTWRITEBYTECODE $(PYTHON) setup.py -q egg_info --egg-base "$$base" \
	    build --build-base "$$base" install \
	    --root "$(or $(DESTDIR),/)" --prefix "$(PREFIX)" --install-lib "$(PURELIB)" \
	    --single-version-externally-managed --record "$$base/installed"
	install -D -m 0644 packaging/prometheus/alerts.yml \
	    "$(DESTDIR)$(PREFIX)/share/vif-driver/prometheus/alerts.yml"
	for file in $(ANSIBLE) $(HOST_DEPLOY); do install -D -m 0644 packaging/$$file \
	    "$(DESTDIR)$(PREFIX)/share/vif-driver/$$file" || exit; done
	$(call launcher,packaging/bin/vif-agent,$(PREFIX)/sbin/vif-agent,0755)
	$(call launcher,packaging/bin/vifctl,$(PREFIX)/bin/vifctl,0755)
	$(call launcher,packaging/bin/without-agent,$(PREFIX)/libexec/vif-driver/without-agent,0755)
	$(call launcher,packaging/bin/boot-pass,$(PREFIX)/libexec/vif-driver/boot-pass,0755)
	$(call launcher,hooks.d/vif_hook.py,$(HOOK),0644)
	$(PYTHON) -I -c "import py_compile as p; p.compile('$(DESTDIR)$(HOOK)', dfile='$(HOOK)', \
	    doraise=True, invalidation_mode=p.PycInvalidationMode.CHECKED_HASH)"
	$(foreach event,$(EVENTS),\
	    $(call launcher,hooks.d/50_vif_driver,$(HOOKSDIR)/$(event)/50_vif_driver,0555) &&) true
	test -e "$(DESTDIR)$(SYSCONFDIR)/vif-driver/vif-driver.conf" || \
	    install -D -m 0644 packaging/vif-driver.conf \
	        "$(DESTDIR)$(SYSCONFDIR)/vif-driver/vif-driver.conf"
	install -d -m 0700 "$(DESTDIR)/var/lib/vif-driver"
	install -D -m 0644 packaging/modules-load.conf \
	    "$(DESTDIR)$(PREFIX)/lib/modules-load.d/vif-driver.conf"
	install -D -m 0644 firewalld/vif-driver-geneve.xml \
	    "$(DESTDIR)$(PREFIX)/lib/firewalld/services/vif-driver-geneve.xml"
	install -D -m 0644 firewalld/vif-driver-vxlan.xml \
	    "$(DESTDIR)$(PREFIX)/lib/firewalld/services/vif-driver-vxlan.xml"
	install -D -m 0644 packaging/vdsm-tool/ovn_config.py \
	    "$(DESTDIR)$(TOOL)"
	$(PYTHON) -I -c "import py_compile as p; p.compile('$(DESTDIR)$(TOOL)', dfile='$(TOOL)', \
	    doraise=True)"
	install -D -m 0644 packaging/man/vifctl.8 "$(DESTDIR)$(PREFIX)/share/man/man8/vifctl.8"
	install -D -m 0644 packaging/man/vif-agent.8 "$(DESTDIR)$(PREFIX)/share/man/man8/vif-agent.8"
	install -D -m 0644 packaging/completion/vifctl \
	    "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vifctl"
	$(call unit,packaging/systemd/vif-agent.service,$(UNITDIR)/vif-agent.service)
	$(call unit,packaging/systemd/vif-agent.socket,$(UNITDIR)/vif-agent.socket)
	$(call unit,packaging/systemd/vif-driver-boot.service,$(UNITDIR)/vif-driver-boot.service)
	install -D -m 0644 packaging/systemd/85-vif-driver.preset \
	    "$(DESTDIR)$(UNITDIR)-preset/85-vif-driver.preset"
	$(call unit,packaging/systemd/ovsdb-server.conf,$(UNITDIR)/ovsdb-server.service.d/50-vif-driver.conf)
	$(call unit,packaging/sysusers.d/vif-driver.conf,$(PREFIX)/lib/sysusers.d/vif-driver.conf)
	$(call unit,packaging/tmpfiles.d/vif-driver.conf,$(PREFIX)/lib/tmpfiles.d/vif-driver.conf)

rpm: ## build the RPMs, and the source RPM, in build/rpm (RELEASE=1)
	rm -rf "$(RPMDIR)" && mkdir -p "$(RPMDIR)/tree/SOURCES" "$(RPMDIR)/tree/SPECS"
	packaging/source.sh "vif-driver-$(VERSION)" "$(RPMDIR)/tree/SOURCES/vif-driver-$(VERSION).tar.gz"
	sed -e 's/@VERSION@/$(VERSION)/' -e 's/@RELEASE@/$(RELEASE)/' packaging/vif-driver.spec.in \
	    >"$(RPMDIR)/tree/SPECS/vif-driver.spec"
	env -u MAKEFLAGS -u MAKELEVEL rpmbuild -ba --quiet $(RPMBUILD) \
	    --define "_topdir $(abspath $(RPMDIR))/tree" \
	    --define "_rpmdir $(abspath $(RPMDIR))" --define "_srcrpmdir $(abspath $(RPMDIR))" \
	    --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
	    "$(RPMDIR)/tree/SPECS/vif-driver.spec"
	rm -rf "$(RPMDIR)/tree"

deb: ## build the Debian package in build/deb (RELEASE=1)
	rm -rf "$(DEBDIR)" && mkdir -p "$(DEBDIR)/tree/DEBIAN"
	env -u MAKEFLAGS -u MAKELEVEL $(MAKE) --no-print-directory install PYTHON="$(PYTHON)" \
	    DESTDIR="$(abspath $(DEBDIR))/tree"
	@# Modules are compiled where they are installed, by Debian's py3compile.
	find "$(DEBDIR)/tree$(PURELIB)" -name __pycache__ -prune -exec rm -r {} +
	gzip -n9 "$(DEBDIR)/tree/usr/share/man/man8"/*
	install -D -m 0644 LICENSE "$(DEBDIR)/tree/usr/share/doc/vif-driver/copyright"
	umask 022 && cp -r --no-preserve=mode README.md docs "$(DEBDIR)/tree/usr/share/doc/vif-driver"
	sed -e 's/@VERSION@/$(VERSION)/' -e 's/@RELEASE@/$(RELEASE)/' packaging/debian/control.in \
	    >"$(DEBDIR)/tree/DEBIAN/control"
	install -m 0644 packaging/debian/conffiles "$(DEBDIR)/tree/DEBIAN"
	install -m 0755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm \
	    "$(DEBDIR)/tree/DEBIAN"
	dpkg-deb --root-owner-group --build "$(DEBDIR)/tree" "$(DEBDIR)"
	rm -rf "$(DEBDIR)/tree"

clean: ## remove what was built and installed below build/
	rm -rf build

LISTS := packaging/deps.sh tests/packages.txt tests/lab/packages.txt tests/requirements-dev.txt \
         tests/requirements-lint.txt tests/constraints-el9.txt

build/deps.stamp: $(LISTS)
	packaging/deps.sh system "$(PYTHON)" $(VENVS)
	touch $@

build/deps-others.stamp: build/deps.stamp
	packaging/deps.sh el9 "$(PYTHON39)" $(VENVS)
	packaging/deps.sh latest "$(PYTHON312)" $(VENVS)
	touch $@
