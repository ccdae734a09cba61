// A JSON writer into memory (RFC 8259). Commas are put by themselves; what does not fit is counted and not written.
#pragma once

#include "kernel/base/types.h"

struct json {
    char *buf;
    u64 size, len;           // len may exceed size: then the document did not fit
    unsigned depth;
    bool first, after_key;
};

void json_init(struct json *j, char *buf, u64 size);
// Inside an object: the key of the value that follows. `key` is written as it is.
void json_key(struct json *j, const char *key);
// '{' or '[', and the matching end.
void json_open(struct json *j, char bracket);
void json_close(struct json *j, char bracket);
// Values. Strings: any bytes; what is no printable ASCII becomes an escape or, above 0x7f, '?'.
void json_string(struct json *j, const char *s);
void json_u64(struct json *j, u64 v);
void json_bool(struct json *j, bool v);
void json_milli(struct json *j, u64 thousandths);         // 1234 is 1.234
void json_micro(struct json *j, u64 millionths);
// A key and its value.
void json_put_string(struct json *j, const char *key, const char *s);
void json_put_u64(struct json *j, const char *key, u64 v);
void json_put_bool(struct json *j, const char *key, bool v);
void json_put_milli(struct json *j, const char *key, u64 thousandths);
void json_put_micro(struct json *j, const char *key, u64 millionths);
// A value that reads "0x" and hexadecimal digits: numbers above 2^53 are not safe in JSON.
void json_put_hex(struct json *j, const char *key, u64 v);
bool json_fits(const struct json *j);
