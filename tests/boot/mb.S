# A multiboot-1 kernel of one page: prints over the serial port, checks what the loader promised (Multiboot Specification 0.6.96, 3.2), and
# leaves by isa-debug-exit. Exit code on the host: (v << 1) | 1 with v = 0x10 if all is well, else the number of the failed check.
        .set MB_FLAGS, 0x3                       # page-aligned modules, memory map wanted
        .code32
        .section .text
        .align  4
        .long   0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)
        .globl  _start
_start:
        mov     $stack, %esp
        mov     %eax, %ebp
        mov     $hello, %esi
        call    puts

        mov     $1, %edi                         # 1: EAX holds the loader's magic
        cmp     $0x2badb002, %ebp
        jne     leave
        mov     $2, %edi                         # 2: memory sizes are given and there are at least 15 MiB above 1 MiB
        testl   $1, (%ebx)
        jz      leave
        cmpl    $15 << 10, 8(%ebx)
        jb      leave
        mov     $3, %edi                         # 3: the memory map is there
        testl   $1 << 6, (%ebx)
        jz      leave
        mov     $4, %edi                         # 4: the command line names us
        testl   $1 << 2, (%ebx)
        jz      leave
        mov     $5, %edi                         # 5: protected mode, paging off, interrupts off
        mov     %cr0, %eax
        and     $0x80000001, %eax
        cmp     $1, %eax
        jne     leave
        pushf
        pop     %eax
        test    $0x200, %eax
        jnz     leave

        mov     $6, %edi                         # 6: a page that code writes into itself, two hundred times
        xor     %ecx, %ecx
        xor     %edx, %edx
again:  mov     %cl, patched + 2
        jmp     patched
patched:
        add     $0, %edx                         # 83 c2 ib
        inc     %ecx
        cmp     $100, %ecx
        jb      again
        cmp     $4950, %edx
        jne     leave

        mov     16(%ebx), %esi                   # the command line, then the verdict
        call    puts
        mov     $good, %esi
        call    puts
        mov     $dbg, %esi                       # to debugcon, which need not be there
1:      lodsb
        test    %al, %al
        jz      2f
        out     %al, $0xe9
        jmp     1b
2:
        mov     $0x10, %edi
leave:
        mov     %edi, %eax
        mov     $0xf4, %dx
        out     %al, %dx
        cli
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

hello:  .asciz  "multiboot guest: hello\n"
good:   .asciz  "\nmultiboot guest: all well\n"
dbg:    .asciz  "over debugcon\n"
        .bss
        .align  16
        .skip   4096
stack:
        .section .note.GNU-stack, "", @progbits
