// The assembled rows, and where each begins and ends.
    .section .rodata
    .globl rows_text, rows_text_end, rows_tab
    .balign 64
rows_text:
    .incbin "rows.text"
rows_text_end:
    .balign 64
rows_tab:
    .incbin "rows.tab"
    .section .note.GNU-stack,"",@progbits
