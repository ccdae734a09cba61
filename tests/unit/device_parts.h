// Parts of device_test that live in their own files.
#pragma once

void test_virtio(void);    // device_virtio.c
void test_blk(void);       // device_blk.c
void test_loaders(void);   // device_load.c
