# A multiboot-1 kernel of stretches of code whose number of instructions is known by construction. The TSC is read before and behind each,
# and COM1 gets "row NAME INSTRUCTIONS NS MEASURED", numbers in hex: under -icount shift=s MEASURED is (INSTRUCTIONS << s) + NS. The
# reading instruction itself and a store behind it are among INSTRUCTIONS. What faults does not count, its handler does; a REP is one; an
# INT n is one.
# Exit code as mb.S: (v << 1) | 1, v = 0x10.
        .set MB_FLAGS, 0x3
        .set APIC, 0xfee00000
        .set EOI, APIC + 0xb0
        .set ICR, APIC + 0x300
        .set LVT_TIMER, APIC + 0x320
        .set COUNT, APIC + 0x380
        .set DIVIDE, APIC + 0x3e0
        .set ABSENT, 0x40000000                  # a page that is not there, once paging is on
        .code32

        .macro  BEGIN
        rdtsc
        mov     %eax, t0
        .endm
        .macro  RESULT name, insns, ns
        push    $\ns
        push    $(\insns) + 2
        push    $9f
        call    report
        jmp     8f
9:      .asciz  "\name"
8:
        .endm
        .macro  END name, insns                  # up to here
        rdtsc
        mov     %eax, t1
        RESULT  \name, \insns, 0
        .endm
        .macro  CAUGHT name, insns, ns=0         # up to the interrupt's handler, which comes back here
7:      cli
        RESULT  \name, \insns, \ns
        .endm
        .macro  GATE vector, handler
        mov     $\handler, %eax
        mov     %ax, idt + \vector * 8
        movw    $8, idt + \vector * 8 + 2
        movw    $0x8e00, idt + \vector * 8 + 4
        shr     $16, %eax
        mov     %ax, idt + \vector * 8 + 6
        .endm
        .macro  PENDING                          # an interrupt waits for IF
        movl    $1024, COUNT
        mov     $2000, %ecx
1:      dec     %ecx
        jnz     1b
        .endm

        .section .text
        .align  4
        .long   0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)
        .globl  _start
_start: cli
        mov     $stack, %esp
        lgdt    gdtr
        ljmp    $8, $1f
1:      mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $0xff, %al                       # both 8259s: all masked
        out     %al, $0x21
        out     %al, $0xa1
        GATE    0, skip2
        GATE    1, back
        GATE    3, back
        GATE    4, back
        GATE    6, skip2
        GATE    14, skip5
        GATE    0x30, back
        GATE    0x40, tick
        lidt    idtr
        movl    $0x1ff, APIC + 0xf0
        movl    $0xb, DIVIDE
        movl    $0x40, LVT_TIMER

# ---- straight code, loops, branches ----
        BEGIN
        END     nothing, 0

        BEGIN
        .rept   150
        inc     %ebx
        .endr
        END     straight, 150

        BEGIN
        mov     $1000, %ecx
1:      dec     %ecx
        jnz     1b
        END     loop, 1+2000

        BEGIN
        mov     $1000, %ecx
1:      loop    1b
        END     loop-instruction, 1+1000

        BEGIN
        mov     $1000, %ecx
1:      test    $1, %cl
        jz      2f
        inc     %ebx
2:      dec     %ecx
        jnz     1b
        END     side-exits, 1+1000*4+500

        BEGIN
        mov     $999, %ecx                       # leaves by the first, second and third side exit in turn
        xor     %edx, %edx
1:      inc     %edx
        cmp     $1, %edx
        je      2f
        cmp     $2, %edx
        je      2f
        cmp     $3, %edx
        je      3f
        ud2
3:      xor     %edx, %edx
2:      dec     %ecx
        jnz     1b
        END     more-side-exits, 2+333*(5+7+10)

        BEGIN
        mov     $100, %ecx
        jmp     2f
1:      dec     %ecx
2:      jecxz   3f
        jmp     1b
3:
        END     jecxz, 2+100*3+1

        BEGIN
        mov     $100, %ecx
        mov     $function, %edx
1:      call    *%edx
        call    function
        dec     %ecx
        jnz     1b
        END     calls, 2+100*8

        BEGIN
        mov     $100, %ecx
1:      call    over_pages
        dec     %ecx
        jnz     1b
        END     over-pages, 1+100*9

        BEGIN
        mov     $100, %ecx
1:      mov     %cl, 2f + 1
        nop
2:      mov     $0, %al
        dec     %ecx
        jnz     1b
        END     written-code, 1+100*5

# ---- strings ----
        mov     $buffer, %esi
        mov     $buffer + 20000, %edi
        mov     $10000, %ecx
        BEGIN
        nop
        rep movsb
        nop
        END     rep-movs, 3

        mov     $buffer, %edi
        mov     $5000, %ecx
        BEGIN
        rep stosl
        rep stosl                                # ECX is 0
        END     rep-stos, 2

        mov     $buffer, %edi
        mov     $buffer + 100, %esi
        mov     $1000, %ecx
        movb    $77, buffer + 50
        BEGIN
        repe cmpsb
        repe cmpsb
        nop
        END     rep-cmps, 3

# ---- faults and software interrupts ----
        BEGIN
        mov     $100, %ecx
1:      nop
        ud2
        nop
        dec     %ecx
        jnz     1b
        END     ud, 1+100*(4+2)

        xor     %esi, %esi
        BEGIN
        mov     $100, %ecx
1:      xor     %edx, %edx
        mov     $1, %eax
        div     %esi
        dec     %ecx
        jnz     1b
        END     de, 1+100*(4+2)

        BEGIN
        mov     $100, %ecx
        mov     $0x7fffffff, %edx
1:      int     $0x30
        int3
        mov     %edx, %eax
        add     $1, %eax
        into
        dec     %ecx
        jnz     1b
        END     int, 2+100*(7+3)

        BEGIN
        pushf
        orl     $0x100, (%esp)
        popf
        nop                                      # from here on, each is followed by a #DB
        nop
        pushf
        andl    $~0x100, (%esp)
        popf
        nop
        END     single-step, 9+5

        mov     %cr4, %eax                       # paging: the first 4 MiB and the local APIC's
        or      $0x10, %eax
        mov     %eax, %cr4
        mov     $pages, %eax
        mov     %eax, %cr3
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        BEGIN
        mov     $100, %ecx
1:      inc     %ebx
        mov     ABSENT, %eax
        inc     %ebx
        mov     %eax, ABSENT
        dec     %ecx
        jnz     1b
        END     pf, 1+100*(4+3+3)
        mov     %cr0, %eax
        and     $0x7fffffff, %eax
        mov     %eax, %cr0

# ---- devices ----
        BEGIN
        .rept   10
        mov     APIC + 0x20, %eax
        inc     %ebx
        movl    $0, APIC + 0x80                  # TPR
        .endr
        END     mmio, 30

        BEGIN
        .rept   10
        in      $0x61, %al
        inc     %ebx
        .endr
        cpuid
        END     ports, 21

# ---- interrupts ----
        movl    $7f, cont
        BEGIN
        inc     %ebx
        movl    $10240, COUNT
        sti
1:      .rept   40
        inc     %ebx
        .endr
        jmp     1b
        CAUGHT  timer, 1, 10240

        movl    $7f, cont
        BEGIN
        movl    $20480, COUNT
        sti
1:      inc     %ebx
        test    $1, %bl
        jz      1b
        test    $2, %bl
        jz      1b
        jmp     1b
        CAUGHT  timer-branches, 0, 20480

        movl    $7f, cont
        BEGIN
        movl    $102400, COUNT
        sti
1:      mov     $buffer, %edi
        mov     $100, %ecx
        rep stosl
        jmp     1b
        CAUGHT  timer-strings, 0, 102400

        movl    $7f, cont
        BEGIN
        movl    $10240, COUNT
        sti
1:      mov     APIC + 0x20, %eax
        inc     %ebx
        jmp     1b
        CAUGHT  timer-mmio, 0, 10240

        movl    $7f, cont
        BEGIN
        movl    $1000001, COUNT
        sti
        hlt
        CAUGHT  hlt, 0, 1000001

        movl    $7f, cont
        PENDING
        BEGIN
        sti
        nop
        nop
        nop
        CAUGHT  sti, 2

        movl    $7f, cont
        PENDING
        BEGIN
        sti
        mov     APIC + 0x20, %eax
        nop
        nop
        CAUGHT  sti-mmio, 2

        movl    $7f, cont
        PENDING
        BEGIN
        push    $0x202
        popf
        nop
        nop
        CAUGHT  popf, 2

        movl    $7f, cont
        sti
        nop
        BEGIN
        inc     %ebx
        movl    $0x40040, ICR                    # to itself
        .rept   20
        inc     %ebx
        .endr
        CAUGHT  self-ipi, 2

        mov     $0x10, %eax
        mov     $0xf4, %dx
        out     %al, %dx
1:      cli
        hlt
        jmp     1b

# ---- handlers ----
skip5:  add     $4, %esp                         # the error code, then an instruction of 5 bytes
        addl    $5, (%esp)
        iret
skip2:  addl    $2, (%esp)
        iret
back:   iret
tick:   rdtsc
        mov     %eax, t1
        mov     cont, %eax
        mov     %eax, (%esp)
        movl    $0, EOI
        iret

function:
        inc     %ebx
        ret

# ---- output: report(name, instructions, ns) pops its arguments and prints them with t1 - t0 ----
report: pop     %ebp
        mov     $label, %esi
        call    puts
        pop     %esi
        call    puts
        pop     %eax
        call    puthex
        pop     %eax
        call    puthex
        mov     t1, %eax
        sub     t0, %eax
        call    puthex
        mov     $'\n', %al
        call    putc
        jmp     *%ebp

puts:   lodsb
        test    %al, %al
        jz      1f
        call    putc
        jmp     puts
1:      ret

puthex: mov     %eax, %ebx
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

label:  .asciz  "row "
        .align  8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   23
        .long   gdt
idtr:   .word   0x41 * 8 - 1
        .long   idt

        .p2align 12
        .skip   4096 - 6
over_pages:
        inc     %ebx
        inc     %ebx
        inc     %ebx
        .byte   0xb8                             # mov $0, %eax over the page's end
        .long   0
        dec     %ebx
        ret

        .p2align 12
pages:  .long   0x83                             # 4 MiB, present, writable
        .fill   1018, 4, 0
        .long   0xfec00083
        .fill   4, 4, 0

        .bss
        .align  16
t0:     .skip   4
t1:     .skip   4
cont:   .skip   8
idt:    .skip   0x41 * 8
        .skip   4096
stack:  .skip   16
buffer: .skip   50000
        .section .note.GNU-stack, "", @progbits
