# What of the ops program C cannot say: the entry, a thread's first steps, the return from a signal handler. System V ABI, Linux system
# calls.

        .text
        .globl _start
_start:
        xor     %ebp, %ebp
        mov     %rsp, %rdi              # argc, argv, NULL, environment, NULL, auxiliary vector
        and     $-16, %rsp
        call    ops_start
        hlt

# long thread_clone(u64 flags, void *stack_top, u32 *tid, void (*fn)(void *), void *arg): clone; the new thread calls fn(arg) and ends.
# tid is both where the kernel writes the thread's id and what it clears and wakes at the thread's end.
        .globl thread_clone
thread_clone:
        sub     $16, %rsi               # fn and arg travel on the new stack
        mov     %rcx, (%rsi)
        mov     %r8, 8(%rsi)
        mov     %rdx, %r10              # child_tid; rdx is parent_tid already
        xor     %r8d, %r8d
        mov     $56, %eax               # clone
        syscall
        test    %rax, %rax
        jz      1f
        ret
1:      xor     %ebp, %ebp
        pop     %rax
        pop     %rdi
        call    *%rax
        xor     %edi, %edi
        mov     $60, %eax               # exit
        syscall
        hlt

        .globl signal_restorer
signal_restorer:
        mov     $15, %eax               # rt_sigreturn
        syscall
        hlt

        .section .note.GNU-stack,"",@progbits
