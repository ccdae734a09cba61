# nm -n output on stdin -> assembler source of the kernel's symbol table (kernel/symbols.c says the layout). Only the low 8 digits of
# addresses are
# used: the kernel lies within the last 2 GiB.
BEGIN { n = 0; off = 0 }
$2 ~ /^[tTwW]$/ && $3 !~ /^(\.L|kernel_(start|text_end)$)/ { addr[n] = substr($1, 9); name[n] = $3; n++ }
END {
    print ".section .ksymbols,\"a\",@progbits\n.balign 8\nstart: .long " n ", 0"
    for (i = 0; i < n; i++) { printf ".long 0x%s, %d\n", addr[i], 8 + 8 * n + off; off += length(name[i]) + 1 }
    for (i = 0; i < n; i++) print ".asciz \"" name[i] "\""
    print ".section .note.GNU-stack,\"\",@progbits"
}
