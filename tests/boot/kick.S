# A multiboot-1 kernel made for being interrupted. It goes from one kind of busy code to the next, at random, and each ends only when some
# interrupt has come: HLT, loops of one block, of many, of one instruction, of helpers, of device accesses, of code that rewrites itself. A
# wake-up that is lost is a guest that stands.
#
# By itself ("rounds=N" on the command line) it has its local APIC's timer and IPIs to itself interrupt it, and says so at the end. With
# tests/kick/ around it, it runs until told to stop, and interrupts come from there as well. They talk through a page at PAGE, which
# tests/kick/rig.h describes too.
# Timed loops besides: for comparing the ways of leaving translated code.
# Checked on the way: registers and XMM0 survive. Exit code as mb.S: (v << 1) | 1, v = 0x10 if all is well.
        .set MB_FLAGS, 0x3
        .set PAGE, 0x200000
        .set MAGIC, PAGE + 0                     # the guest is ready
        .set STOP, PAGE + 4
        .set MASK, PAGE + 8                      # bit n: kind n may be chosen
        .set SELF, PAGE + 12                     # interrupt yourself
        .set KIND, PAGE + 16                     # what runs now
        .set ROUNDS, PAGE + 20
        .set ERRORS, PAGE + 24
        .set LOOPS, PAGE + 28                    # iterations of the loops over devices
        .set BENCH, PAGE + 32                    # 1..: run that timed loop, ITERATIONS times round, and put the ticks into TICKS
        .set ITERATIONS, PAGE + 36
        .set TICKS, PAGE + 40                    # u64
        .set AP, PAGE + 48                       # 1: the other processors shall loop, 2: halt; 0 when they have been told
        .set GAPS, PAGE + 52                     # of timed loop 7: ticks in which it was not run, by interruptions that short
        .set GAP_MIN, 2048
        .set GAP_MAX, 1 << 18
        .set COUNT, PAGE + 0x100                 # u32 per vector: how often it came
        .set TSC, PAGE + 0x800                   # u64 per vector: the TSC at the handler's first instruction, last time
        .set KINDS, 16
        .set AP_CODE, 0x8000                     # (a page that a startup IPI can name)
        .set VEC_FIRST, 0x40
        .set VECS, 32
        .set VEC_IPI, 0x5e
        .set VEC_TIMER, 0x5f
        .set APIC, 0xfee00000
        .set HPET, 0xfed00000

        .code32
        .section .text
        .align  4
        .long   0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)
        .globl  _start
_start: cli
        mov     $stack, %esp
        mov     %ebx, %ebp
        lgdt    gdtr                             # the loader's may be gone: Multiboot Specification 0.6.96, 3.2
        ljmp    $8, $1f
1:      mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %cr0, %eax                       # SSE on
        and     $~4, %eax
        or      $2, %eax
        mov     %eax, %cr0
        mov     %cr4, %eax
        or      $0x600, %eax
        mov     %eax, %cr4
        movaps  pattern, %xmm0

        mov     $PAGE, %edi
        mov     $0x400, %ecx
        xor     %eax, %eax
        rep stosl
        movl    $(1 << KINDS) - 1, MASK

        xor     %ecx, %ecx                       # the IDT: stubs are 16 bytes each
1:      mov     %ecx, %eax
        shl     $4, %eax
        add     $stubs, %eax
        mov     %ax, idt + VEC_FIRST * 8(,%ecx,8)
        movw    $8, idt + VEC_FIRST * 8 + 2(,%ecx,8)
        movw    $0x8e00, idt + VEC_FIRST * 8 + 4(,%ecx,8)
        shr     $16, %eax
        mov     %ax, idt + VEC_FIRST * 8 + 6(,%ecx,8)
        inc     %ecx
        cmp     $VECS, %ecx
        jb      1b
        lidt    idtr
        mov     $0xff, %al                       # the 8259s are not asked
        out     %al, $0x21
        out     %al, $0xa1
        movl    $0x1ff, APIC + 0xf0
        movl    $0, APIC + 0x80
        movl    $0xb, APIC + 0x3e0               # divide by 1: nanoseconds on most machines
        movl    $VEC_TIMER, APIC + 0x320
        movl    $1, HPET + 0x10                  # counts

        testl   $1 << 2, (%ebp)                  # the number behind '=' in the command line
        jz      3f
        mov     16(%ebp), %esi
        xor     %ebx, %ebx
1:      lodsb
        test    %al, %al
        jz      3f
        cmp     $'=', %al
        jne     1b
2:      movzbl  (%esi), %eax
        inc     %esi
        sub     $'0', %eax
        cmp     $9, %eax
        ja      3f
        imul    $10, %ebx
        add     %eax, %ebx
        mov     %ebx, limit
        movl    $1, SELF
        jmp     2b
3:      mov     $hello, %esi
        call    puts
        movl    $0x4b49434b, MAGIC
        sti

# ---- one round: choose, perhaps interrupt ourselves, be busy until something came ----
round:  movl    $0, flag                         # first: whoever asks for something asks, and then interrupts
        cmpl    $0, STOP
        jne     end
        mov     limit, %eax
        test    %eax, %eax
        jz      1f
        cmp     %eax, ROUNDS
        jae     end
1:      cmpl    $0, BENCH
        jne     bench
        cmpl    $0, AP
        jne     others
        call    random
        mov     %eax, %edx
        shr     $8, %edx
        and     $15, %edx
        bt      %edx, MASK
        jnc     1b                               # (also while the host allows none: it is about to ask for something)
        mov     %edx, KIND
        cmpl    $0, SELF
        je      3f
        test    $0x10000, %eax
        jz      2f
        movl    $0x40000 | VEC_IPI, APIC + 0x300 # to ourselves
        jmp     3f
2:      shr     $20, %eax                        # in 1 .. 4096 ticks
        inc     %eax
        mov     %eax, APIC + 0x380
3:      mov     $0x12345678, %esi
        mov     $0x9abcdef0, %edi
        call    *kinds(,%edx,4)
        sti
        cmp     $0x12345678, %esi
        jne     bad
        cmp     $0x9abcdef0, %edi
        jne     bad
        movaps  %xmm0, %xmm1
        pcmpeqb pattern, %xmm1
        pmovmskb %xmm1, %eax
        cmp     $0xffff, %eax
        jne     bad
        incl    ROUNDS
        jmp     round
bad:    incl    ERRORS
        movaps  pattern, %xmm0
        incl    ROUNDS
        jmp     round

random: mov     seed, %eax                       # xorshift32
        mov     %eax, %ecx
        shl     $13, %ecx
        xor     %ecx, %eax
        mov     %eax, %ecx
        shr     $17, %ecx
        xor     %ecx, %eax
        mov     %eax, %ecx
        shl     $5, %ecx
        xor     %ecx, %eax
        mov     %eax, seed
        ret

# ---- the kinds ----
        .macro  until_flag
        cmpl    $0, flag
        je      1b
        ret
        .endm

k_halt: cli                                      # 0: the pattern that operating systems idle with
        cmpl    $0, flag
        jne     1f
        sti
        hlt
        jmp     k_halt
1:      ret
k_spin: cmpl    $0, flag                         # 1: one block
        je      k_spin
        ret
k_self: cli                                      # 2: one instruction; the handler moves us on. STI's shadow covers the first jump
        cmpl    $0, flag
        jne     self_end
        sti
self:   jmp     self
self_end:
        ret
k_call:                                          # 3: calls, returns, indirect jumps
1:      call    2f
        call    *leaf_at
        mov     $3f, %eax
        jmp     *%eax
3:      until_flag
2:      call    leaf
        ret
leaf:   ret
k_cpuid:                                         # 4: helpers
1:      xor     %eax, %eax
        xor     %ecx, %ecx
        push    %ebx
        cpuid
        pop     %ebx
        until_flag
k_port:                                          # 5: device accesses under the big lock
1:      in      $0x61, %al
        incl    LOOPS
        out     %al, $0x80
        until_flag
k_mmio:                                          # 6: device accesses without it
1:      mov     APIC + 0x80, %eax
        mov     HPET + 0xf0, %eax
        incl    LOOPS
        until_flag
k_rep:  push    %esi                             # 7: string instructions
        push    %edi
1:      mov     $area, %esi
        mov     $area + 4096, %edi
        mov     $8192, %ecx
        rep movsb
        cmpl    $0, flag
        je      1b
        pop     %edi
        pop     %esi
        ret
k_sti:                                           # 8: interrupts on and off
1:      cli
        pushf
        nop
        popf
        sti
        nop
        cli
        nop
        sti
        until_flag
k_ss:   mov     $16, %edx                        # 9: in the shadow of MOV SS
1:      mov     %edx, %ss
        mov     %esp, %esp
        until_flag
k_dec:  mov     $1000, %ecx                      # 10: a counted loop, then a look
1:      dec     %ecx
        jnz     1b
        cmpl    $0, flag
        je      k_dec
        ret
k_smc:                                           # 11: code that rewrites itself
1:      incl    2f + 1
2:      mov     $0, %eax
        until_flag
k_sse:                                           # 12: vector state in the registers, and device code that wants it out of them
1:      movaps  %xmm0, %xmm2
        paddd   %xmm2, %xmm2
        in      $0x61, %al
        paddd   %xmm2, %xmm2
        until_flag
k_chain:                                         # 13: many short blocks
1:      xor     $1, %eax
        test    $1, %al
        jz      2f
        inc     %edx
        jmp     3f
2:      dec     %edx
3:      test    $2, %dl
        jnz     4f
        nop
4:      until_flag
k_mem:                                           # 14: loads and stores
1:      mov     $64, %ecx
2:      mov     area(,%ecx,8), %eax
        add     %eax, area + 4096(,%ecx,8)
        mov     %ecx, area + 8192(,%ecx,8)
        dec     %ecx
        jnz     2b
        until_flag
k_miss:                                          # 15: loads of which each takes the other's place in a TLB of 4096 entries or less
        movl    $0x1800000, 0x800000
        movl    $0x800000, 0x1800000
        mov     $0x800000, %eax
1:      .rept   8
        mov     (%eax), %eax
        .endr
        until_flag
        .balign 4
kinds:  .long   k_halt, k_spin, k_self, k_call, k_cpuid, k_port, k_mmio, k_rep, k_sti, k_ss, k_dec, k_smc, k_sse, k_chain, k_mem, k_miss

# ---- the other processors: INIT, then a startup IPI to code of two instructions ----
others: movb    $0x40, AP_CODE                   # inc ax; jmp to it
        cmpl    $1, AP
        je      1f
        movb    $0xf4, AP_CODE                   # hlt; jmp to it
1:      movw    $0xfdeb, AP_CODE + 1
        movl    $0xc4500, APIC + 0x300
        movl    $0xc4600 | AP_CODE >> 12, APIC + 0x300
        movl    $0, AP
        jmp     round

# ---- timed loops: ECX times, then TICKS. All start at a block's head and do the same in every mode of the translator ----
bench:  mov     BENCH, %edx
        mov     ITERATIONS, %ecx
        push    %edx
        rdtsc
        mov     %eax, bench_start
        mov     %edx, bench_start + 4
        pop     %edx
        mov     $area, %esi
        call    *benches - 4(,%edx,4)
        rdtsc
        sub     bench_start, %eax
        sbb     bench_start + 4, %edx
        mov     %eax, TICKS
        mov     %edx, TICKS + 4
        movl    $0, BENCH
        jmp     round
b_dec:  dec     %ecx                             # 1: one instruction a round
        jnz     b_dec
        ret
b_alu:  lea     3(%eax,%edx), %eax               # 2: arithmetic
        xor     %eax, %edx
        add     $5, %edx
        rol     $3, %eax
        dec     %ecx
        jnz     b_alu
        ret
b_mem:  mov     (%esi), %eax                     # 3: loads and stores
        add     64(%esi), %eax
        mov     %eax, 128(%esi)
        dec     %ecx
        jnz     b_mem
        ret
b_call: call    leaf                             # 4: calls and returns
        dec     %ecx
        jnz     b_call
        ret
b_jump: .rept   8                                # 5: eight blocks of two instructions
        inc     %eax
        jmp     1f
1:
        .endr
        dec     %ecx
        jnz     b_jump
        ret
b_branch:                                        # 6: branches that go either way
        test    $1, %cl
        jz      1f
        inc     %eax
1:      test    $2, %cl
        jz      1f
        inc     %edx
1:      dec     %ecx
        jnz     b_branch
        ret
b_gaps: xor     %ebx, %ebx                       # 7: looks at the clock all the time, and adds up where it jumped
        rdtsc
        mov     %eax, %esi
1:      rdtsc
        mov     %eax, %edi
        sub     %esi, %eax
        mov     %edi, %esi
        lea     -GAP_MIN(%eax), %edx
        cmp     $GAP_MAX - GAP_MIN, %edx
        jae     2f
        add     %eax, %ebx
2:      dec     %ecx
        jnz     1b
        mov     %ebx, GAPS
        ret
        .balign 4
benches: .long  b_dec, b_alu, b_mem, b_call, b_jump, b_branch, b_gaps

# ---- handlers ----
        .balign 16
stubs:  .set    v, VEC_FIRST
        .rept   VECS
        .balign 16
        pushl   $v
        jmp     handler
        .set    v, v + 1
        .endr
        .balign 16
handler:
        push    %eax
        push    %edx
        push    %ecx
        rdtsc
        mov     12(%esp), %ecx
        mov     %eax, TSC(,%ecx,8)
        mov     %edx, TSC + 4(,%ecx,8)
        incl    COUNT(,%ecx,4)
        movl    $1, flag
        cmpl    $self, 16(%esp)
        jne     1f
        movl    $self_end, 16(%esp)
1:      movl    $0, APIC + 0xb0                  # EOI
        pop     %ecx
        pop     %edx
        pop     %eax
        add     $4, %esp
        iret

# ---- the end ----
end:    cli
        mov     $1, %edi
        mov     $wrong, %esi
        cmpl    $0, ERRORS
        jne     1f
        mov     $0x10, %edi
        mov     $good, %esi
1:      call    puts
        mov     %edi, %eax
        mov     $0xf4, %dx
        out     %al, %dx
1:      hlt
        jmp     1b

# ESI: zero-terminated text to COM1, waiting for an empty transmitter (LSR bit 5).
puts:   mov     $0x3fd, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        lodsb
        test    %al, %al
        jz      2f
        mov     $0x3f8, %dx
        out     %al, %dx
        jmp     puts
2:      ret

hello:  .asciz  "kick guest: ready\n"
good:   .asciz  "kick guest: all rounds done\n"
wrong:  .asciz  "kick guest: registers were lost\n"
        .align  16
pattern: .quad  0x0123456789abcdef, 0xfedcba9876543210
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   .short  23
        .long   gdt
idtr:   .short  (VEC_FIRST + VECS) * 8 - 1
        .long   idt
seed:   .long   0x2545f491
leaf_at: .long  leaf
flag:   .long   0
limit:  .long   0
bench_start: .quad 0
        .bss
        .align  16
idt:    .skip   (VEC_FIRST + VECS) * 8
        .align  16
        .skip   4096
stack:
        .align  4096
area:   .skip   16384
        .section .note.GNU-stack, "", @progbits
