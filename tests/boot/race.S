# A multiboot-1 kernel for several vCPUs that take turns by virtual time (-icount with -smp n; its command line ends in n). They race on
# purpose: words are read, changed and written back without any lock, so that what comes out depends on the very instruction at which each
# vCPU's turn ended. All run the same phases, between barriers. After each, the boot vCPU writes to COM1, in hex:
#
#     phase NAME HASH TSC        HASH: the word that all mixed into; TSC: its low half at the end
#     turn ID GAPS LEAST MOST    after `turns': how often vCPU ID missed more than GAP of the TSC at once, and how much
#
#   turns   everybody reads the TSC without end: what is missing is the others' turns, which can be told exactly
#   race    the word is mixed without a lock
#   pause   the same with PAUSE, which gives the turn away now and then
#   lock    a spinlock around a counter, and the TSC, which must not be behind what another vCPU has read
#   ring    a token goes around by interprocessor interrupts; who has none sleeps
#   flood   everybody sends interrupts to everybody while it works
#   sleep   everybody sleeps for times of its own by its local APIC's timer
#   code    everybody changes and calls the same function
#
# Exit code as mb.S: (v << 1) | 1, v = 0x10; v = 2 if the lock's counter or the TSC was wrong.
        .set MB_FLAGS, 0x3
        .set APIC, 0xfee00000
        .set EOI, APIC + 0xb0
        .set ICR, APIC + 0x300
        .set ICR_HIGH, APIC + 0x310
        .set LVT_TIMER, APIC + 0x320
        .set COUNT, APIC + 0x380
        .set DIVIDE, APIC + 0x3e0
        .set TRAMPOLINE, 0x8000
        .set CPUS, 8
        .set STACK, 4096
        .set GAP, 1000000                        # shorter than a turn, longer than anything that one vCPU does between two readings
        .set TURNS_ROUNDS, 1200000
        .set RACE_ROUNDS, 600000
        .set PAUSE_ROUNDS, 20000
        .set LOCK_ROUNDS, 4000
        .set RING_ROUNDS, 3000
        .set FLOOD_ROUNDS, 3000
        .set SLEEP_ROUNDS, 200
        .set CODE_ROUNDS, 1500
        .code32

        .macro  MIX reg                          # the word and a register; five instructions, no lock. Clobbers EDI
        mov     word, %edi
        imul    $0x01000193, %edi
        xor     \reg, %edi
        rol     $5, %edi
        mov     %edi, word
        .endm
        .macro  GATE vector, handler
        mov     $\handler, %eax
        mov     %ax, idt + \vector * 8
        movw    $8, idt + \vector * 8 + 2
        movw    $0x8e00, idt + \vector * 8 + 4
        shr     $16, %eax
        mov     %ax, idt + \vector * 8 + 6
        .endm
        .macro  SEND vector, to                  # clobbers EAX; the handlers send nothing, so the two writes need no CLI
        mov     \to, %eax
        shl     $24, %eax
        mov     %eax, ICR_HIGH
        movl    $0x4000 | \vector, ICR
        .endm

        .section .text
        .align  4
        .long   0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)
        .globl  _start
_start: cli
        mov     16(%ebx), %esi                   # the command line's last digit
1:      lodsb
        test    %al, %al
        jnz     1b
        movzbl  -2(%esi), %eax
        sub     $'0', %eax
        mov     %eax, cpus
        mov     $0xff, %al                       # both 8259s: all masked
        out     %al, $0x21
        out     %al, $0xa1
        GATE    0x40, on_token
        GATE    0x41, on_flood
        GATE    0x42, on_timer
        mov     $trampoline, %esi
        mov     $TRAMPOLINE, %edi
        mov     $trampoline_end - trampoline, %ecx
        rep movsb
        movl    $0xc4500, ICR                    # INIT, then STARTUP, to all others
        movl    $0xc4600 | TRAMPOLINE >> 12, ICR
        lgdt    gdtr
        ljmp    $8, $main

# Real mode, CS = TRAMPOLINE >> 4.
        .code16
trampoline:
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        lgdtl   TRAMPOLINE + (1f - trampoline)
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $8, $main
1:      .word   23
        .long   gdt
trampoline_end:
        .code32

# ---- every vCPU: EBP is its number for good, EBX what it counts with ----
main:   mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     APIC + 0x20, %ebp
        shr     $24, %ebp
        lea     1(%ebp), %eax
        imul    $STACK, %eax
        lea     stacks(%eax), %esp
        lidt    idtr
        movl    $0x1ff, APIC + 0xf0
        movl    $0xb, DIVIDE
        movl    $0x42, LVT_TIMER
        mov     $phases, %esi
1:      call    barrier
        push    %esi
        call    *4(%esi)
        pop     %esi
        call    barrier
        test    %ebp, %ebp
        jnz     2f
        mov     $label, %edi
        call    puts
        mov     (%esi), %edi
        call    puts
        mov     word, %eax
        call    puthex
        rdtsc
        call    puthex
        mov     $'\n', %al
        call    putc
        mov     8(%esi), %eax
        call    *%eax
2:      add     $12, %esi
        cmp     $phases_end, %esi
        jne     1b
        call    barrier
        test    %ebp, %ebp
        jz      3f
        cli
        hlt
3:      mov     $0x10, %eax
        mov     cpus, %ecx
        imul    $LOCK_ROUNDS, %ecx
        cmp     %ecx, counter
        jne     4f
        cmpl    $0, behind
        je      5f
4:      mov     $2, %eax
5:      mov     $0xf4, %dx
        out     %al, %dx
        cli
        hlt

# All meet; without PAUSE, so that who waits does so to the end of its turn. Clobbers EAX, EDX.
barrier:
        mov     round, %edx
        mov     $1, %eax
        lock xadd %eax, here
        inc     %eax
        cmp     cpus, %eax
        jne     1f
        movl    $0, here
        incl    round
        ret
1:      cmp     round, %edx
        je      1b
        ret

# ---- phases ----
turns:  imul    $12, %ebp, %edi
        add     $gaps, %edi
        movl    $-1, 4(%edi)
        mov     $TURNS_ROUNDS, %ecx
        rdtsc
        mov     %eax, %ebx
1:      rdtsc                                    # eight instructions a round
        mov     %eax, %edx
        sub     %ebx, %eax
        mov     %edx, %ebx
        cmp     $GAP, %eax
        ja      3f
2:      dec     %ecx
        jnz     1b
        ret
3:      incl    (%edi)
        cmp     4(%edi), %eax
        jae     4f
        mov     %eax, 4(%edi)
4:      cmp     8(%edi), %eax
        jbe     5f
        mov     %eax, 8(%edi)
5:      rdtsc
        mov     %eax, %ebx
        jmp     2b

race:   mov     $RACE_ROUNDS, %ecx
1:      MIX     %ecx
        dec     %ecx
        jnz     1b
        ret

pauses: mov     $PAUSE_ROUNDS, %ecx
1:      MIX     %ecx
        pause
        MIX     %ebp
        dec     %ecx
        jnz     1b
        ret

lock:   mov     $LOCK_ROUNDS, %ecx
1:      mov     $1, %eax
        xchg    %eax, spin
        test    %eax, %eax
        jz      3f
2:      pause
        cmpl    $0, spin
        jne     2b
        jmp     1b
3:      incl    counter
        lfence                                   # or RDTSC may come before the lock is taken (SDM 2B, RDTSC)
        rdtsc
        cmp     last_high, %edx
        jb      4f
        ja      5f
        cmp     last, %eax
        jae     5f
4:      incl    behind
5:      mov     %eax, last
        mov     %edx, last_high
        MIX     %ebp
        movl    $0, spin
        dec     %ecx
        jnz     1b
        ret

# The token is the interrupt. Whoever takes it mixes the time and sends it on; vCPU 0 counts rounds and ends the phase by a flag.
ring:   mov     %ebp, %ebx
        inc     %ebx
        cmp     cpus, %ebx
        jb      1f
        xor     %ebx, %ebx
1:      mov     $RING_ROUNDS, %ecx
        test    %ebp, %ebp
        jz      3f
2:      cli
        cmpl    $0, tokens(,%ebp,4)
        jne     3f
        cmpl    $0, ended
        jne     9f
        sti
        hlt
        jmp     2b
3:      movl    $0, tokens(,%ebp,4)
        sti
        rdtsc
        MIX     %eax
        SEND    0x40, %ebx
        test    %ebp, %ebp
        jnz     2b
        dec     %ecx
        jnz     2b
        movl    $1, ended
        movl    $0xc4040, ICR                    # everybody looks
9:      cli
        movl    $0, tokens(,%ebp,4)
        ret

flood:  mov     $FLOOD_ROUNDS, %ecx
        xor     %ebx, %ebx
        sti
1:      inc     %ebx
        cmp     cpus, %ebx
        jb      2f
        xor     %ebx, %ebx
2:      SEND    0x41, %ebx
        MIX     %ecx
        .rept   7
        MIX     %ebp
        .endr
        dec     %ecx
        jnz     1b
        cli
        ret

sleep:  mov     $SLEEP_ROUNDS, %ecx
        mov     $17, %ebx
        add     %ebp, %ebx
1:      imul    $1103515245, %ebx
        add     $12345, %ebx
        mov     %ebx, %eax
        shr     $12, %eax                        # up to a millisecond
        add     $1000, %eax
        movl    $0, fired(,%ebp,4)
        mov     %eax, COUNT
2:      cli
        cmpl    $0, fired(,%ebp,4)
        jne     3f
        sti
        hlt
        jmp     2b
3:      rdtsc
        MIX     %eax
        dec     %ecx
        jnz     1b
        ret

code:   mov     $CODE_ROUNDS, %ecx
        lea     8(%ebp), %ebx
1:      add     $0x3b, %bl
        mov     %bl, patched + 1
        call    function
        MIX     %eax
        dec     %ecx
        jnz     1b
        ret
# ---- handlers; EBP is whose ----
on_token:
        push    %eax
        movl    $1, tokens(,%ebp,4)
        movl    $0, EOI
        pop     %eax
        iret
on_flood:
        push    %eax
        push    %edx
        push    %edi
        rdtsc
        MIX     %eax
        movl    $0, EOI
        pop     %edi
        pop     %edx
        pop     %eax
        iret
on_timer:
        movl    $1, fired(,%ebp,4)
        movl    $0, EOI
        iret

# ---- output, by vCPU 0 ----
nothing:
        ret
show_turns:
        xor     %ecx, %ecx
        mov     $gaps, %ebx
1:      push    %ecx
        mov     $label_turn, %edi
        call    puts
        mov     (%esp), %eax
        call    puthex
        mov     (%ebx), %eax
        call    puthex
        mov     4(%ebx), %eax
        call    puthex
        mov     8(%ebx), %eax
        call    puthex
        mov     $'\n', %al
        call    putc
        add     $12, %ebx
        pop     %ecx
        inc     %ecx
        cmp     cpus, %ecx
        jb      1b
        ret

puts:   mov     (%edi), %al
        inc     %edi
        test    %al, %al
        jz      1f
        call    putc
        jmp     puts
1:      ret

puthex: push    %ebx
        mov     %eax, %ebx
        mov     $' ', %al
        call    putc
        mov     $8, %ecx
1:      rol     $4, %ebx
        mov     %bl, %al
        and     $15, %al
        cmp     $10, %al
        sbb     $0x69, %al                       # 0..15 to '0'..'F': the 8086's way
        das
        call    putc
        loop    1b
        pop     %ebx
        ret

putc:   mov     %al, %ah
        mov     $0x3fd, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     %ah, %al
        mov     $0x3f8, %dx
        out     %al, %dx
        ret

label:  .asciz  "phase "
label_turn:
        .asciz  "turn"
n_turns: .asciz "turns"
n_race: .asciz  "race"
n_pause: .asciz "pause"
n_lock: .asciz  "lock"
n_ring: .asciz  "ring"
n_flood: .asciz "flood"
n_sleep: .asciz "sleep"
n_code: .asciz  "code"
        .align  4
phases: .long   n_turns, turns, show_turns
        .long   n_race, race, nothing
        .long   n_pause, pauses, nothing
        .long   n_lock, lock, nothing
        .long   n_ring, ring, nothing
        .long   n_flood, flood, nothing
        .long   n_sleep, sleep, nothing
        .long   n_code, code, nothing
phases_end:
        .p2align 12                              # alone on its page: dropping it makes the page one without code
function:
        xor     %eax, %eax
patched:
        mov     $0, %al
        ret
        .p2align 12
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   23
        .long   gdt
idtr:   .word   0x43 * 8 - 1
        .long   idt

        .bss
        .align  64
word:   .skip   64
here:   .skip   4
round:  .skip   4
cpus:   .skip   4
spin:   .skip   4
counter: .skip  4
behind: .skip   4
last:   .skip   4
last_high: .skip 4
ended:  .skip   4
tokens: .skip   CPUS * 4
fired:  .skip   CPUS * 4
gaps:   .skip   CPUS * 12                        # how often, the least, the most
        .align  8
idt:    .skip   0x43 * 8
        .align  16
stacks: .skip   CPUS * STACK
        .section .note.GNU-stack, "", @progbits
