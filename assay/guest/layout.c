// The offsets and the plan of the window that assembly and the linker script know, pinned.
#include "assay/guest/guest.h"

#define AT(field, value) _Static_assert(offsetof(struct cpu, field) == (value), #field)
AT(self, 0);
AT(user_rsp, CPU_USER_RSP);
AT(trap_stack, CPU_TRAP_STACK);
AT(user_stack, CPU_USER_STACK);
AT(ring0_rsp, CPU_RING0_RSP);
AT(tsc, CPU_TSC);
AT(hits, CPU_HITS);
AT(x2apic, CPU_X2APIC);
AT(fault_pt, CPU_FAULT_PT);
AT(fault_phys, CPU_FAULT_PHYS);
AT(faults, CPU_FAULTS);
AT(exit_rsp, CPU_EXIT_RSP);
AT(exit_cr0, CPU_EXIT_CR0);
AT(exit_cr3, CPU_EXIT_CR3);
AT(exit_cr4, CPU_EXIT_CR4);
AT(exit_efer, CPU_EXIT_EFER);
AT(wakes, CPU_WAKES);
_Static_assert(sizeof(struct cpu) == CPU_SIZE, "cpus[] in traps.S");
_Static_assert(sizeof(struct stacks) == STACKS_SIZE && STACK_IST_TOP == STACKS_SIZE && STACK_TRAP_TOP == offsetof(struct stacks, ist),
               "stacks[]");
_Static_assert(STACK_KERNEL_TOP == offsetof(struct stacks, trap) && STACK_USER_TOP == offsetof(struct stacks, kernel), "stacks[]");
_Static_assert(offsetof(struct timed, fn) == TIMED_FN && offsetof(struct timed, ctx) == TIMED_CTX && offsetof(struct timed, n) == TIMED_N,
               "timed");
_Static_assert(offsetof(struct timed, start) == TIMED_START && offsetof(struct timed, end) == TIMED_END, "timed");
_Static_assert(offsetof(struct timed, value) == TIMED_VALUE, "timed");
_Static_assert(ASSAY_VIRT - ASSAY_GUEST_PHYS == LINKED_ABOVE_LOADED, "the image's place in a guest");
_Static_assert(ARENA_AT + (u64)ARENA_SIZE * ASSAY_CPUS <= CODE_AT && CODE_AT + (u64)CODE_SIZE * ASSAY_CPUS <= SHARED_AT,
               "the window's plan");
_Static_assert(SHARED_AT + SHARED_SIZE == ASSAY_VIRT + ASSAY_WINDOW, "the window's plan");
_Static_assert(TRAMPOLINE_AT == 0x8000, "boot.S");
