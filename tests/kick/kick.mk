# Tests and figures that need a whole hosted machine and a second core beside it: tests/kick/rig.h. Included by the Makefile.
KICK_LIB := $(filter-out $(B)/hosted/hosted/main.c.o,$(HOSTED_OBJ))
KICK_NAMES := kick_test exit_bench cores_test lock_test profile_test
KICK_PROGRAMS := $(KICK_NAMES:%=$(B)/tests/%)
# What runs on a core, in its interrupts at that, has the guest's vector state under it: as every platform, general registers only.
# (libc's printf and qsort are called on the second core and in processes that run no guest.)
$(B)/kick/tests/kick/%.c.o: tests/kick/%.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) $(REGSONLY) -c -o $@ $<
$(KICK_PROGRAMS): $(B)/tests/%: $(B)/kick/tests/kick/%.c.o $(B)/kick/tests/kick/rig.c.o $(KICK_LIB) | $(B)/tests/kick.elf
	$(CC) -Wl,-z,now -o $@ $(filter %.o,$^) -lpthread -lrt -lZydis
# The same with the tables tiny and the dice on (tests/variants.mk).
$(B)/stress/tests/kick/%.c.o: tests/kick/%.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) $(REGSONLY) $(VARIANT_FLAGS_stress) -c -o $@ $<
$(B)/stress/kick_test: $(patsubst %,$(B)/stress/%.o,tests/kick/kick_test.c tests/kick/rig.c $(TCG_SRC) $(DEV_SRC) $(BASE_SRC) $(filter-out hosted/main.c,$(HOSTED_SRC)))
	$(CC) -Wl,-z,now -o $@ $^ -lpthread -lrt -lZydis
.PHONY: stress-kicks
stress-kicks: $(B)/tests/kick_test $(B)/stress/kick_test $(B)/tests/kick.elf ## 10 million kicks and timer expiries, a few minutes (KICKS=N for another number)
	CUPEL_KICKS=$(or $(KICKS),10000000) $(B)/tests/kick_test $(B)/tests/kick.elf
	$(B)/stress/kick_test $(B)/tests/kick.elf
.PHONY: bench-exit
bench-exit: $(B)/tests/exit_bench $(B)/cupel $(GUEST) ## exit=interrupt against exit=poll: size, speed of tight loops, latency of interrupts
	B=$(B) tests/bench/exit.py $(ARGS)
-include $(wildcard $(B)/kick/tests/kick/*.d)
