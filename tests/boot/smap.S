# A multiboot-1 kernel that opens and closes SMAP (SDM 3A 4.6.1) and turns the string direction, thousands of times in the same code and
# under CR4.SMAP off and on: what STAC, CLAC, CLD and STD lead to is another mode of translated code each time, which jumps between blocks
# must not mix up. Exit code on the host: (v << 1) | 1 with v = 0x10 if all is well, else the number of the failed check.
        .set ROUNDS, 4096
        .set CR4_PSE, 0x10
        .set CR4_SMAP, 0x200000
        .set USER, 0x400000                      # a page that user code may reach, 4 MiB large, as the supervisor's below it
        .code32
        .section .text
        .align  4
        .long   0x1badb002, 0, -0x1badb002
        .globl  _start
_start:
        mov     $stack, %esp
        lgdt    gdtr
        ljmp    $8, $1f
1:      mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $fault, %eax                     # an interrupt gate for #PF, the only exception that may come
        mov     %ax, idt + 14 * 8
        movl    $8, idt + 14 * 8 + 2
        movw    $0x8e00, idt + 14 * 8 + 4
        shr     $16, %eax
        mov     %ax, idt + 14 * 8 + 6
        lidt    idtr

        mov     $1, %edi                         # 1: the processor has SMAP (CPUID.7.0:EBX bit 20)
        mov     $7, %eax
        xor     %ecx, %ecx
        cpuid
        test    $1 << 20, %ebx
        jz      leave
        movl    $0x83, pages                     # present, writable, 4 MiB
        movl    $USER | 0x87, pages + 4          # and user
        mov     $CR4_PSE, %eax
        mov     %eax, %cr4
        mov     $pages, %eax
        mov     %eax, %cr3
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0

        mov     $USER, %ebx
        mov     $ROUNDS, %ecx
round:  mov     %ecx, %edx                       # EDX: 1 in each other 64 rounds: SMAP is on
        shr     $6, %edx
        and     $1, %edx
        mov     %ecx, %eax
        not     %eax
        test    $63, %eax
        jnz     1f
        mov     %edx, %eax
        neg     %eax
        and     $CR4_SMAP, %eax
        or      $CR4_PSE, %eax
        mov     %eax, %cr4
1:      mov     $2, %edi                         # 2: open, nothing faults; 3: closed, the access faults where SMAP is on
        call    stac_clac
        test    %esi, %esi
        jnz     leave
        inc     %edi
        cmp     %edx, %ebp
        jne     leave
        mov     $4, %edi                         # 4, 5: the same by POPF
        call    by_popf
        test    %esi, %esi
        jnz     leave
        inc     %edi
        cmp     %edx, %ebp
        jne     leave
        mov     $6, %edi                         # 6: string directions, entered with either
        test    $1, %ecx
        jz      2f
        std
2:      call    directions
        cmp     $middle - 1, %esi
        jne     leave
        dec     %ecx
        jns     round
        mov     $0x10, %edi
leave:
        mov     %edi, %eax
        mov     $0xf4, %dx
        out     %al, %dx
        cli
1:      hlt
        jmp     1b

# ESI: faults while it was open; EBP: faults in all.
stac_clac:
        xor     %ebp, %ebp
        stac
        mov     (%ebx), %eax
        mov     %ebp, %esi
        clac
        mov     (%ebx), %eax
        ret

by_popf:
        xor     %ebp, %ebp
        pushf
        orl     $0x40000, (%esp)                 # EFLAGS.AC
        popf
        mov     (%ebx), %eax
        mov     %ebp, %esi
        pushf
        andl    $~0x40000, (%esp)
        popf
        mov     (%ebx), %eax
        ret

directions:
        mov     $middle, %esi
        cld
        lodsb
        std
        lodsb
        lodsb
        cld
        ret

# The load that faulted is two bytes long.
fault:  inc     %ebp
        addl    $2, 4(%esp)
        add     $4, %esp
        iret

        .align  8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   .word   23
        .long   gdt
idtr:   .word   15 * 8 - 1
        .long   idt
        .byte   0
middle: .byte   0, 0
        .bss
        .align  4096
pages:  .skip   4096
idt:    .skip   15 * 8
        .align  16
        .skip   4096
stack:
        .section .note.GNU-stack, "", @progbits
