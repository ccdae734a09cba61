# Variants: the hosted program and the instruction tests once more, compiled differently. Included by the Makefile after insn.mk and
# unit.mk. `make test-stress` and `make test-asan` run one of them, `make test` both.
#
#     stress   every table tiny, rare branches taken at random (tcg/limits.h)
#     asan     AddressSanitizer and UBSan. The sanitizers' run-time uses vector registers, so the guest's leave the host's around all C code
#              (tcg/limits.h), and libc's memory functions, which it watches, take the place of kernel/base/string.c. tests/sanitize.c has
#              its settings.
VARIANTS := stress asan
VARIANT_FLAGS_stress := -DCUPEL_STRESS
VARIANT_BOOT_stress := quick
VARIANT_FLAGS_asan := -DCUPEL_SANITIZE
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
VARIANT_INSTRUMENT_asan := $(SANITIZE)
# Objects by the allocation of whole pages would hide overruns from ASan: tests/sanitize.c allocates them.
VARIANT_LINK_asan := $(SANITIZE) -Wl,--wrap=plat_pages_alloc,--wrap=plat_pages_free
VARIANT_WITHOUT_asan := kernel/base/string.c
VARIANT_WITH_asan := tests/sanitize.c
# The instruction tests' harness touches memory at the addresses of the guest's, whose shadow shadow.c closes: it has functions of its own
# for that.
VARIANT_INSN_asan := tests/insn/shadow.c tests/string.c
VARIANT_HARNESS_asan := $(foreach f,memcpy memmove memset memcmp memchr strlen strnlen strncmp strcmp strchr strrchr strstr strcpy strncpy mmap,-D$f=plain_$f)

# $1: variant, $2: sources
variant_obj = $(patsubst %,$(B)/$1/%.o,$(filter-out $(VARIANT_WITHOUT_$1),$2) $(VARIANT_WITH_$1))
variant_insn_src = $(patsubst %,tests/insn/%,native.c signals.c compare.c input.c translated.c testplat.c) $(TCG_SRC) $(wildcard kernel/base/*.c)

define variant_rules
$(B)/$1/%.c.o: %.c | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) $$(REGSONLY) $(VARIANT_FLAGS_$1) $(VARIANT_INSTRUMENT_$1) -c -o $$@ $$<
$(B)/$1/%.S.o: %.S | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) $(VARIANT_FLAGS_$1) -c -o $$@ $$<
$(B)/$1/tests/ir/%.c.o: tests/ir/%.c | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) $(VARIANT_FLAGS_$1) $(VARIANT_INSTRUMENT_$1) -c -o $$@ $$<
$(B)/$1/tests/string.c.o: kernel/base/string.c | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) $$(REGSONLY) $(VARIANT_HARNESS_$1) -c -o $$@ $$<
$(B)/$1/tests/sanitize.c.o: tests/sanitize.c | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) -c -o $$@ $$<
# The harness runs code with a foreign FS base: not instrumented.
$(B)/$1/tests/%.c.o: tests/%.c | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) $(VARIANT_FLAGS_$1) $(VARIANT_HARNESS_$1) -fno-stack-protector -I$$(INSN_B) -c -o $$@ $$<
$(B)/$1/tests/insn/testplat.c.o: tests/insn/testplat.c | $(B)/deps.build
	@mkdir -p $$(@D)
	$$(CC) $$(BASEFLAGS) $$(REGSONLY) $(VARIANT_FLAGS_$1) $(VARIANT_HARNESS_$1) -fno-stack-protector -c -o $$@ $$<
$(B)/$1/tests/insn/insn_test.c.o: $(INSN_B)/rows.inc $(INSN_B)/rows32.inc

$(B)/$1/cupel: $(call variant_obj,$1,$(TCG_SRC) $(DEV_SRC) $(BASE_SRC) $(HOSTED_SRC))
	$$(CC) $(VARIANT_LINK_$1) -Wl,-z,now -o $$@ $$^ -lpthread -lrt -lZydis
$(B)/$1/insn_test: $(call variant_obj,$1,$(variant_insn_src) $(VARIANT_INSN_$1) $(patsubst %,tests/insn/%,insn_test.c coverage.c stale.c)) $(INSN_B)/tests/insn/blobs.S.o
	$$(CC) $(VARIANT_LINK_$1) -o $$@ $$^
$(B)/$1/insn_random: $(call variant_obj,$1,$(variant_insn_src) $(VARIANT_INSN_$1) $(patsubst %,tests/insn/%,random.c sequence.c))
	$$(CC) $(VARIANT_LINK_$1) -o $$@ $$^
$(B)/$1/ir_test: $(call variant_obj,$1,$(TCG_SRC) $(wildcard kernel/base/*.c tests/ir/*.c) $(VARIANT_INSN_$1) tests/insn/testplat.c tests/insn/input.c)
	$$(CC) $(VARIANT_LINK_$1) -o $$@ $$^
VARIANT_PROGRAMS_$1 := $(B)/$1/cupel $(B)/$1/insn_test $(B)/$1/insn_random $(B)/$1/ir_test
VARIANT_RUNS_$1 := $(B)/$1/insn_test "$(B)/$1/insn_random rounds=30000" "$(B)/$1/insn_random rounds=10000 exit=poll chain=off" \
    $(B)/$1/ir_test "tests/boot/variant_test.py $(B)/$1/cupel $(VARIANT_BOOT_$1)"
$$(VARIANT_PROGRAMS_$1): | $(B)/deps.test
-include $$(shell find $(B)/$1 -name "*.d" 2>/dev/null)
endef
$(foreach v,$(VARIANTS),$(eval $(call variant_rules,$v)))
VARIANT_PROGRAMS := $(foreach v,$(VARIANTS),$(VARIANT_PROGRAMS_$v))
VARIANT_RUNS := $(foreach v,$(VARIANTS),$(VARIANT_RUNS_$v))

.PHONY: test-stress test-asan
test-stress: $(VARIANT_PROGRAMS_stress) $(GUEST) $(TEST_INITRD) ## instruction tests and a boot with tiny tables and rare branches at random
	B=$(B) tests/run.py $(VARIANT_RUNS_stress)
test-asan: $(VARIANT_PROGRAMS_asan) $(GUEST) $(TEST_INITRD) ## the same under AddressSanitizer and UBSan
	B=$(B) tests/run.py $(VARIANT_RUNS_asan)
