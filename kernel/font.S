/* The console's font, as the build unpacked it (FONT_PSF). */
    .section .rodata
    .globl font_psf, font_psf_end
    .balign 16
font_psf:
    .incbin FONT_PSF
font_psf_end:
    .section .note.GNU-stack,"",@progbits
