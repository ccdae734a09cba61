# Unit tests: one program per tests/unit/*_test.c, and a second time with the sanitizers. Included by the Makefile.
#
# What a test is linked with stands in its own comment, "// link: tcg/run/phys.c devices/serial.c" and "// libs: -lZydis", or in the table
# here. "// noasan" as a line of its own, or NOASAN_name, leaves the second build out.
X86 := tcg/guest/x86
LINK_decode := $(X86)/decode.c $(X86)/decode_table.c
LIBS_decode := -lZydis
LINK_xlate := $(wildcard $(X86)/xlate*.c $(X86)/decode*.c) tcg/ir/ir.c kernel/base/fmt.c
LIBS_xlate := -no-pie -Wl,--unresolved-symbols=ignore-all
NOASAN_xlate := 1
LINK_xlate_host := $(X86)/xlate_host.c $(X86)/decode.c $(X86)/decode_table.c tcg/host/asm.c
LIBS_xlate_host := -lZydis
LINK_paging := $(patsubst %,$(X86)/%.c,seg exception farjump paging msr cpuid sysinsn fpu rep cpu) tcg/run/flags.c kernel/base/fmt.c tests/unit/panic.c
LINK_device := tests/unit/device_fake.c tests/unit/device_load.c tests/unit/device_virtio.c tests/unit/device_blk.c tcg/run/phys.c kernel/base/fmt.c kernel/base/log.c \
    $(filter-out %/clock.c %/hpet.c %/icount.c %/ioapic.c %/lapic.c %/lapic_bus.c %/lapic_timer.c %/pic.c %/pit.c %/rtc.c,$(DEV_SRC))
LINK_irqchip := $(patsubst %,devices/%.c,clock pic ioapic lapic lapic_bus lapic_timer) kernel/base/fmt.c
# Nothing behind the assertions is reached.
LINK_locked := $(filter-out devices/load%,$(DEV_SRC)) tests/unit/panic.c
LIBS_locked := -no-pie -Wl,--unresolved-symbols=ignore-all
LINK_timer := $(patsubst %,devices/%.c,clock icount pit hpet rtc) kernel/base/fmt.c

UNITS := $(patsubst tests/unit/%_test.c,%,$(wildcard tests/unit/*_test.c))
UNIT_ASAN := $(foreach u,$(UNITS),$(if $(NOASAN_$u)$(shell grep -l '^// noasan' tests/unit/$u_test.c),,$u))
unit_src = tests/unit/$1_test.c $(or $(LINK_$1),$(shell sed -n 's|^// link: *||p' tests/unit/$1_test.c))
unit_libs = $(or $(LIBS_$1),$(shell sed -n 's|^// libs: *||p' tests/unit/$1_test.c)) -lpthread

$(B)/unit/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -c -o $@ $<
$(B)/unit-asan/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -fsanitize=address,undefined -fno-sanitize-recover=undefined -c -o $@ $<
define unit_rules
$(B)/tests/$1_test: $(patsubst %,$(B)/unit/%.o,$(call unit_src,$1))
	@mkdir -p $$(@D)
	$(CC) -o $$@ $$^ $(call unit_libs,$1)
$(B)/tests-asan/$1_test: $(patsubst %,$(B)/unit-asan/%.o,$(call unit_src,$1))
	@mkdir -p $$(@D)
	$(CC) -fsanitize=address,undefined -o $$@ $$^ $(call unit_libs,$1)
endef
$(foreach u,$(UNITS),$(eval $(call unit_rules,$u)))
UNIT_PROGRAMS := $(UNITS:%=$(B)/tests/%_test) $(UNIT_ASAN:%=$(B)/tests-asan/%_test)
-include $(shell find $(B)/unit $(B)/unit-asan -name '*.d' 2>/dev/null)
