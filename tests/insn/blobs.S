// The assembled rows, and where each begins and ends.
    .macro rowset name, file
    .globl \name\()_text, \name\()_text_end, \name\()_tab
    .balign 64
\name\()_text:
    .incbin "\file\().text"
\name\()_text_end:
    .balign 64
\name\()_tab:
    .incbin "\file\().tab"
    .endm
    .section .rodata
    rowset rows, rows
    rowset rows32, rows32
    .section .note.GNU-stack,"",@progbits
