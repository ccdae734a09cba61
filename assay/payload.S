// The payload's file, as data of Cupel's own image: the assay needs no file of its own.
    .section .rodata
    .globl assay_payload, assay_payload_end
    .hidden assay_payload, assay_payload_end
    .balign 16
assay_payload:
    .incbin ASSAY_PAYLOAD
assay_payload_end:
    .section .note.GNU-stack, "", @progbits
