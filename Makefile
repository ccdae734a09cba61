# Cupel. One Makefile, everything it makes is in build/. `make help` lists what there is to make.
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
B := build
all: hosted metal ## the Linux process and the bootable image (the default)
.PHONY: all

WARN := -Wall -Wextra -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wno-unused-parameter
# What runs while the guest's vector and x87 state is in the host's registers must not touch them.
REGSONLY := -mgeneral-regs-only -mno-red-zone
BASEFLAGS := -std=gnu11 -O2 -g -I. $(WARN) -fno-strict-aliasing -fno-omit-frame-pointer -MMD -MP \
    -DASSAY_PAYLOAD='"$(B)/assay/payload.elf"'

TCG_SRC := $(wildcard tcg/ir/*.c tcg/host/*.c tcg/run/*.c tcg/guest/x86/*.c) $(wildcard tcg/run/*.S)
DEV_SRC := $(wildcard devices/*.c)
BASE_SRC := $(wildcard kernel/base/*.c) kernel/machine.c kernel/machine_cores.c kernel/machine_profile.c
ASSAY_SRC := $(wildcard assay/*.c) assay/payload.S
HOSTED_SRC := $(wildcard hosted/*.c) $(ASSAY_SRC)

# Packages that the build needs are installed once per change of the list. DEPS=no leaves the system alone.
$(B)/deps.%: tools/deps.sh
	@mkdir -p $(B)
	$(if $(filter no,$(DEPS)),,@tools/deps.sh $*)
	@touch $@

# ---- hosted: Cupel as a Linux process ----
HOSTED_OBJ := $(patsubst %,$(B)/hosted/%.o,$(TCG_SRC) $(DEV_SRC) $(BASE_SRC) $(HOSTED_SRC))
$(HOSTED_OBJ): | $(B)/deps.build
$(B)/hosted/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) $(REGSONLY) -c -o $@ $<
$(B)/hosted/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -c -o $@ $<
# The build id is compiled into one file of each build; the payload is in all of them.
HOSTED_BUILDS := $(B)/hosted $(B)/stress $(B)/asan
$(HOSTED_BUILDS:%=%/hosted/assay.c.o): BASEFLAGS += $(IDENT)
$(HOSTED_BUILDS:%=%/hosted/assay.c.o): $(B)/metal/ident
$(HOSTED_BUILDS:%=%/assay/payload.S.o) $(B)/metal/assay/payload.S.o: $(B)/assay/payload.elf
# Bound at start: the dynamic linker must not run in the middle of a helper.
$(B)/cupel: $(HOSTED_OBJ)
	$(CC) -Wl,-z,now -o $@ $^ -lpthread -lrt -lZydis

.PHONY: hosted
hosted: $(B)/cupel ## build/cupel, the Linux process with QEMU's options

# ---- the default guest ----
GUEST := $(B)/guest/vmlinuz $(B)/guest/initrd
$(B)/guest/vmlinuz $(B)/guest/initrd &: tools/guest.sh | $(B)/deps.build
	tools/guest.sh $(B)/guest
	@touch $(GUEST)
# The assay's Linux has a RAM disk of its own, which goes onto the stick with the rest.
$(B)/guest/assay.img: $(B)/assay/linux-initrd | $(GUEST)
	cp $< $@
.PHONY: guest
guest: $(GUEST) ## Debian's kernel and a RAM disk with busybox, in build/guest/

include metal.mk
$(METAL_OBJ) $(BOOT_OBJ): | $(B)/deps.metal
$(NEWLIB)/lib/libc.a: | $(B)/deps.metal
$(B)/cupel.img $(B)/cupel.iso: $(GUEST)
$(B)/cupel.iso: | $(B)/deps.test

include assay/linux.mk

# ---- running it ----
.PHONY: run run-hosted screenshot
APPEND ?= console=ttyS0
ARGS ?=
run: $(B)/cupel.img | $(B)/deps.test ## Cupel on a (virtual) bare PC: QEMU + OVMF boots build/cupel.img. Ctrl-A x ends it
	tools/run-metal.sh $(B)/cupel.img $(ARGS)
run-hosted: $(B)/cupel $(GUEST) ## Cupel as a Linux process boots the default guest. Ctrl-A x ends it
	$(B)/cupel -kernel $(B)/guest/vmlinuz -initrd $(B)/guest/initrd -append "$(APPEND)" -m 512 -nographic $(ARGS)
screenshot: $(B)/cupel.img | $(B)/deps.test ## the README's picture, docs/screen.png
	tools/screenshot.py $(B)/cupel.img docs/screen.png

# ---- tests ----
TEST_INITRD := $(B)/guest/initrd-tests
include tests/insn/insn.mk
include tests/unit/unit.mk
include tests/variants.mk
include tests/kick/kick.mk
include assay/assay.mk
$(UNIT_PROGRAMS) $(B)/tests/insn_test $(B)/tests/insn_random $(B)/tests/ir_test: | $(B)/deps.test
# The guest's program of smp_test.py.
$(B)/tests/smp: $(wildcard tests/boot/smp/*.c tests/boot/smp/*.h) | $(B)/deps.build
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -static -pthread $(WARN) -o $@ $(filter %.c,$^)
$(B)/tests/mb.elf $(B)/tests/smap.elf $(B)/tests/tick.elf $(B)/tests/kick.elf $(B)/tests/icount.elf $(B)/tests/race.elf: $(B)/tests/%.elf: tests/boot/%.S
	@mkdir -p $(@D)
	$(CC) -m32 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none,-n,--no-warn-rwx-segments -o $@ $<
# Mostly 64-bit code; multiboot loaders want 32-bit ELF.
$(B)/tests/switch.elf: tests/boot/switch.S
	@mkdir -p $(@D)
	$(CC) -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none,-n,--no-warn-rwx-segments -o $@ $<
	objcopy -O elf32-i386 $@
# Programs that tests run in the guest, on top of the default guest's RAM disk: Linux unpacks one archive after the other.
$(B)/tests/guest/bin/remap: tests/boot/remap.c | $(B)/deps.build
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 $(WARN) -static -nostdlib -ffreestanding -fno-stack-protector -Wl,--build-id=none -o $@ $<
$(TEST_INITRD): $(B)/guest/initrd $(B)/tests/guest/bin/remap
	{ cat $< && (cd $(B)/tests/guest && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet) | gzip -n; } >$@

# What tests preload into the hosted emulator.
$(B)/tests/powerloss.so $(B)/tests/processors.so: $(B)/tests/%.so: tests/boot/%.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -g $(WARN) -Wno-missing-prototypes -shared -fPIC -o $@ $< -ldl
INSN_PROGRAMS := $(B)/tests/insn_test $(B)/tests/insn_random $(if $(wildcard tests/ir/*.c),$(B)/tests/ir_test)
boot_tests = $(patsubst %,tests/boot/%_test.py,$1)
QUICK_RUNS = $(UNIT_PROGRAMS) $(INSN_PROGRAMS) $(B)/tests/cores_test "$(B)/tests/lock_test $(B)/tests/kick.elf" "$(B)/tests/profile_test $(B)/tests/kick.elf" \
    $(call boot_tests,options multiboot)
# Alone: what looks at latencies, or keeps both processors busy. The rest runs two at a time.
ALONE_RUNS = $(B)/tests/cores_test "$(B)/tests/lock_test $(B)/tests/kick.elf" "$(B)/tests/profile_test $(B)/tests/kick.elf" \
    "$(B)/tests/kick_test $(B)/tests/kick.elf" $(call boot_tests,hosted smp console icount blk payload assay_linux kick)
TOGETHER_RUNS = $(call boot_tests,assay blk_metal metal_cores stick metal bochs virtio peer options multiboot) tests/report/report_test.py tools/lint.py \
    $(VARIANT_RUNS) $(INSN_PROGRAMS) "$(B)/tests/insn_random icount=on" $(UNIT_PROGRAMS)
TEST_FILES := $(patsubst %,$(B)/tests/%,mb.elf smap.elf switch.elf tick.elf icount.elf race.elf powerloss.so processors.so smp payload_native) $(B)/assay/payload.elf \
    $(B)/boot/kernel.elf $(GUEST) $(TEST_INITRD) $(ASSAY_LINUX)
.PHONY: assay test test-quick test-metal lint bench-blk bench-linux bench-peers bench-smp
test-quick: $(UNIT_PROGRAMS) $(INSN_PROGRAMS) $(KICK_PROGRAMS) $(B)/cupel $(B)/tests/mb.elf $(B)/tests/smap.elf $(B)/tests/switch.elf $(GUEST) $(TEST_INITRD) ## unit and instruction tests and one boot, about a minute
	B=$(B) tests/run.py $(QUICK_RUNS) "tests/boot/hosted_test.py quick"
test: $(UNIT_PROGRAMS) $(INSN_PROGRAMS) $(KICK_PROGRAMS) $(VARIANT_PROGRAMS) $(B)/cupel $(TEST_FILES) | $(B)/deps.report
test: $(B)/cupel.img ## everything: lint, unit, instruction, hosted and metal boots, stress build, sanitizers
	B=$(B) tests/run.py $(ALONE_RUNS) --jobs 2 $(TOGETHER_RUNS)
test-metal: $(B)/cupel.img ## the boots under QEMU + OVMF only
	B=$(B) tests/run.py $(call boot_tests,metal metal_cores)
lint: | $(B)/deps.test ## layering, headers, both compilers' warnings, house rules
	tools/lint.py

# ---- measuring ----
$(B)/bench/bench: tests/bench/bench.c | $(B)/deps.build
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -fno-tree-vectorize -static -fno-strict-aliasing $(WARN) -o $@ $< -lm   # scalar stays scalar
$(B)/bench/parallel: tests/bench/parallel.c | $(B)/deps.build
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -static -fno-strict-aliasing $(WARN) -o $@ $<
$(B)/bench/blk: tests/bench/blk.c | $(B)/deps.build
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -static -pthread -fno-strict-aliasing $(WARN) -o $@ $<
bench-blk: $(B)/cupel $(B)/bench/blk $(GUEST) | $(B)/deps.test ## virtio-blk with and without a data plane: build/cupel and QEMU's TCG, in turns
	B=$(B) tests/bench/blk.py $(ARGS)
bench-linux: $(B)/cupel $(ASSAY_LINUX) $(B)/tests/linux_phases_test $(GUEST) | $(B)/deps.test ## a Linux kernel's boot and operations: build/cupel, QEMU's TCG and native, in turns
	B=$(B) tests/bench/linux_ops.py $(ARGS)
# On a real PC: the boot entry `assay'. Under QEMU the figures are of an emulator in an emulator; the last run counts instructions instead.
ASSAY_CPUS ?= $(shell nproc)
ASSAY_RUN = $(B)/cupel -assay out=$(B)/assay-hosted.json -smp $(ASSAY_CPUS) -kernel $(B)/guest/vmlinuz -initrd $(B)/assay/linux-initrd
assay: $(B)/cupel $(B)/cupel.img $(B)/assay/linux-initrd $(GUEST) | $(B)/deps.test ## what translation costs: hosted, in QEMU's TCG, and on a virtual bare PC; the page is build/assay.html
	$(ASSAY_RUN)
	B=$(B) tests/bench/assay_peers.py $(B)/assay-hosted.json
	tools/assay-metal.sh $(B)/cupel.img $(B)/assay-metal.json rounds=3,linux=1,ms=2
	tools/assay-metal.sh $(B)/cupel.img $(B)/assay-count.json rounds=1,linux=0,ms=1 -icount shift=0
	tools/report -o $(B)/assay.html $(B)/assay-hosted.json $(B)/assay-qemu.json $(B)/assay-metal.json $(B)/assay-count.json
bench-smp: $(B)/cupel $(B)/bench/parallel $(GUEST) | $(B)/deps.test ## what a second vCPU brings: build/cupel, QEMU's TCG and native, in turns
	B=$(B) tests/bench/smp.py $(ARGS)
# The second half beside an assay of this machine: ASSAY=FILE, or a hosted one that is made here if there is none.
ASSAY ?= $(B)/assay-hosted.json
bench-peers: $(B)/cupel $(B)/bench/bench $(B)/assay/payload.elf $(GUEST) | $(B)/deps.test ## build/cupel against QEMU's TCG and native, in turns
	B=$(B) tests/bench/peers.py $(ARGS)
	test -e $(ASSAY) || $(B)/cupel -assay linux=0,out=$(ASSAY)
	B=$(B) tests/bench/assay_peers.py $(ASSAY)
	tools/report -o $(B)/assay-peers.html $(ASSAY) $(B)/assay-qemu.json
	@echo "the page is $(B)/assay-peers.html"

.PHONY: help clean
help: ## this list
	@grep -hE '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
clean: ## removes build/
	rm -rf $(B)
-include $(HOSTED_OBJ:.o=.d)
