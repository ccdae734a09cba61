# Instruction tests against the CPU: build/tests/insn_test (rows) and build/tests/insn_random (sequences).
# Included by the Makefile; wants B, CC, BASEFLAGS, REGSONLY, TCG_SRC.
INSN_B := $(B)/tests/insn
INSN_ROWS := $(wildcard tests/insn/rows/*.def)
INSN_ROWS32 := $(wildcard tests/insn/rows32/*.def)
# The translator without the platforms: tests/insn/testplat.c is the platform.
INSN_TCG_OBJ := $(patsubst %,$(INSN_B)/%.o,$(TCG_SRC) $(wildcard kernel/base/*.c))
INSN_COMMON := $(patsubst %,$(INSN_B)/tests/insn/%.o,native.c signals.c compare.c input.c translated.c testplat.c)

$(INSN_B)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) $(REGSONLY) -c -o $@ $<
$(INSN_B)/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -c -o $@ $<
# The harness may use vector registers; its handlers run with a test's FS base, so nothing thread-local.
$(INSN_B)/tests/insn/%.c.o: tests/insn/%.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -fno-stack-protector -I$(INSN_B) -c -o $@ $<
$(INSN_B)/tests/insn/testplat.c.o: tests/insn/testplat.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) $(REGSONLY) -fno-stack-protector -c -o $@ $<

$(INSN_B)/rowgen: tests/insn/rowgen.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -o $@ $<
$(INSN_B)/rows.S $(INSN_B)/rows.inc &: $(INSN_B)/rowgen $(INSN_ROWS)
	$(INSN_B)/rowgen $(INSN_B)/rows 64 $(INSN_ROWS)
$(INSN_B)/rows32.S $(INSN_B)/rows32.inc &: $(INSN_B)/rowgen $(INSN_ROWS32)
	$(INSN_B)/rowgen $(INSN_B)/rows32 32 $(INSN_ROWS32)
$(INSN_B)/rows.inc: | $(INSN_B)/rows32.inc
$(INSN_B)/rows.elf: $(INSN_B)/rows.S
	as -o $(INSN_B)/rows.o $<
	ld --defsym=data=0x20000000 -Ttext=0x10000000 --section-start=.rowtab=0x18000000 -e 0 -o $@ $(INSN_B)/rows.o
$(INSN_B)/rows32.elf: $(INSN_B)/rows32.S
	as --32 -o $(INSN_B)/rows32.o $<
	ld -m elf_i386 --defsym=data=0x20000000 -Ttext=0x10000000 --section-start=.rowtab=0x18000000 -e 0 -o $@ $(INSN_B)/rows32.o
$(INSN_B)/%.text $(INSN_B)/%.tab &: $(INSN_B)/%.elf
	objcopy -O binary -j .text $< $(INSN_B)/$*.text
	objcopy -O binary -j .rowtab $< $(INSN_B)/$*.tab
$(INSN_B)/tests/insn/insn_test.c.o: $(INSN_B)/rows.inc $(INSN_B)/rows32.inc
$(INSN_B)/tests/insn/blobs.S.o: tests/insn/blobs.S $(INSN_B)/rows.text $(INSN_B)/rows.tab $(INSN_B)/rows32.text $(INSN_B)/rows32.tab
	@mkdir -p $(@D)
	$(CC) -Wa,-I$(INSN_B) -c -o $@ $<

$(B)/tests/insn_test: $(patsubst %,$(INSN_B)/tests/insn/%.o,insn_test.c coverage.c stale.c blobs.S) $(INSN_COMMON) $(INSN_TCG_OBJ)
	$(CC) -o $@ $^
$(B)/tests/insn_random: $(patsubst %,$(INSN_B)/tests/insn/%.o,random.c sequence.c) $(INSN_COMMON) $(INSN_TCG_OBJ)
	$(CC) -o $@ $^

# tests/ir: the reference interpreter against emitted code.
$(INSN_B)/tests/ir/%.c.o: tests/ir/%.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -fno-stack-protector -c -o $@ $<
$(B)/tests/ir_test: $(patsubst %.c,$(INSN_B)/%.c.o,$(wildcard tests/ir/*.c)) \
    $(patsubst %,$(INSN_B)/tests/insn/%.o,testplat.c input.c) $(INSN_TCG_OBJ)
	$(CC) -o $@ $^

-include $(INSN_TCG_OBJ:.o=.d) $(wildcard $(INSN_B)/tests/*/*.d)
