# A multiboot-1 kernel that sleeps: 40 interrupts of the 8254 at 200 Hz, each awaited with HLT, then isa-debug-exit. Under Cupel every one
# of them is a deadline of the host's timer, so that reaching the end shows that the host's timer interrupts. Also kept: that the TSC went
# on meanwhile.
# Exit code as mb.S: (v << 1) | 1, v = 0x10 if all is well.
        .set MB_FLAGS, 0x3
        .set TICKS, 40
        .code32
        .section .text
        .align  4
        .long   0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)
        .globl  _start
_start: cli
        mov     $stack, %esp
        lgdt    gdtr                             # the loader's may be gone: Multiboot Specification 0.6.96, 3.2
        ljmp    $8, $1f
1:      mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $hello, %esi
        call    puts

        mov     $handler, %eax                   # gate 0x20
        mov     %ax, idt + 0x20 * 8
        movw    $8, idt + 0x20 * 8 + 2
        movw    $0x8e00, idt + 0x20 * 8 + 4
        shr     $16, %eax
        mov     %ax, idt + 0x20 * 8 + 6
        lidt    idtr

        mov     $setup, %esi                     # both 8259s, then counter 0 in mode 2
1:      movzwl  (%esi), %edx
        test    %edx, %edx
        jz      2f
        mov     2(%esi), %al
        out     %al, %dx
        add     $3, %esi
        jmp     1b
2:      rdtsc
        mov     %eax, %edi
        sti
3:      hlt
        cmpl    $TICKS, ticks
        jb      3b
        cli
        rdtsc
        cmp     %edi, %eax
        mov     $1, %edi
        je      leave
        mov     $good, %esi
        call    puts
        mov     $0x10, %edi
leave:  mov     %edi, %eax
        mov     $0xf4, %dx
        out     %al, %dx
1:      hlt
        jmp     1b

handler:
        push    %eax
        incl    ticks
        mov     $0x20, %al
        out     %al, $0x20
        pop     %eax
        iret

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

        .macro  port p, v
        .short  \p
        .byte   \v
        .endm
setup:  port    0x20, 0x11
        port    0xa0, 0x11
        port    0x21, 0x20
        port    0xa1, 0x28
        port    0x21, 4
        port    0xa1, 2
        port    0x21, 1
        port    0xa1, 1
        port    0x21, 0xfe
        port    0xa1, 0xff
        port    0x43, 0x34
        port    0x40, 5966 & 255                 # 1193182 Hz / 200
        port    0x40, 5966 >> 8
        .short  0
hello:  .asciz  "tick guest: waiting\n"
good:   .asciz  "tick guest: 40 ticks\n"
        .align  8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   .short  23
        .long   gdt
idtr:   .short  0x21 * 8 - 1
        .long   idt
        .bss
        .align  16
idt:    .skip   0x21 * 8
ticks:  .skip   4
        .align  16
        .skip   4096
stack:
        .section .note.GNU-stack, "", @progbits
