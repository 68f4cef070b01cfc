# The front door.  Meson works in build/meson; what it makes lands in build/.
#
#   make          build/bitlm, build/bitlm0.so, build/libbitlm.so, build/libbitlm.a
#   make deps     installs what is missing, and prints it
#   make python   the Python package, build/python/bitlm, for Debian's Python (PYTHON)
#   make pg       the PostgreSQL extension, built and installed (PG_CONFIG)
#   make demo-pg  the same, shown in psql with a cluster of its own
#   make demo     deps, build, the main job shown in the sqlite3 shell
#   make check    deps, build, every test
#   make asan | ubsan | tsan | valgrind    the C tests under a checker
#   make arm      the core built for 64-bit ARM in build/arm, its tests under qemu-user
#   make fuzz     libFuzzer over files and texts (needs clang), FUZZ_SECONDS each
#   make bench | install | clean
#
# Variables: PREFIX, DESTDIR, CC, BUILDTYPE.

PREFIX ?= /usr/local
BUILDTYPE ?= debugoptimized

# Debian's own tools first: a version manager's shim of the same name on PATH
# may belong to a Python that lacks them.
MESON := $(firstword $(wildcard /usr/bin/meson) meson)
NINJA := $(firstword $(wildcard /usr/bin/ninja) ninja)
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
export NINJA PYTHON

all: build/meson/build.ninja
	@$(NINJA) -C build/meson
	@.ci/products.sh build/meson build

build/meson/build.ninja:
	@$(MESON) setup build/meson --prefix=$(PREFIX) --libdir=lib --buildtype=$(BUILDTYPE) -Doptimization=2 \
		-Dpython_program=$(PYTHON)

deps:
	@.ci/deps.sh

python:
	@.ci/deps.sh python
	@$(MAKE) --no-print-directory build/meson/build.ninja
	@# Meson remembers that the headers were not there.
	@grep -q '_bitlm[.]' build/meson/build.ninja || $(MESON) configure build/meson --clearcache
	@$(NINJA) -C build/meson --quiet build.ninja
	@$(MESON) configure build/meson -Dpython=enabled -Dpython_program=$(PYTHON)
	@$(MAKE) --no-print-directory all
	@.ci/python_tree.sh build/meson build/python

# Installing needs the rights to write into the server's folders.
pg:
	@.ci/deps.sh postgresql
	@$(MAKE) --no-print-directory all
	@.ci/pg.sh

demo-pg: pg
	@BITLM_PG_OPTIONS="$$(printf "shared_preload_libraries = 'bitlm'\nbitlm.worker_databases = 'postgres'")" \
		tests/postgres/cluster.sh tests/demo/demo-pg.sh

demo: deps
	@$(MAKE) --no-print-directory all
	@tests/demo/demo.sh

check:
	@.ci/check.sh

bench: all
	@.ci/bench.sh

install: all
	@DESTDIR=$(DESTDIR) $(MESON) install -C build/meson --no-rebuild

asan ubsan tsan valgrind: deps
	@.ci/sanitize.sh $@

arm:
	@.ci/arm.sh

fuzz: deps
	@.ci/fuzz.sh

clean:
	rm -rf build ext_postgres/*.o ext_postgres/bitlm.so

.PHONY: all deps pg demo-pg python demo check bench install asan ubsan tsan valgrind arm fuzz clean
