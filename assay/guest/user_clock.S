# The clock: a chain of 32 multiplications that wait for one another, and nothing else that could vary; natively and translated the same
# cycles. The controller runs it between other workloads: if it takes another time than usual, the processor's clock has changed, or
# somebody had the processor.
        .text
        .globl  test_clock
        .balign 64
test_clock:
        lea     1(%rsi,%rsi), %rax
        .balign 32
1:      .rept   32
        imul    $0x6d2b79f5, %rax, %rax
        .endr
        dec     %rsi
        jnz     1b
        ret
        .section .note.GNU-stack, "", @progbits
