/* A PKCS #11 module that forwards to another one, and fails, waits or hangs as it is told.
 *
 * Built by tests/parts/faulty_hsm.py. Beside the module PATH lie PATH.target, the path of the real
 * module, and PATH.control with lines "FUNCTION WHAT VALUE": C_Decrypt delay 3000 (milliseconds),
 * C_Decrypt code 0x30, C_Login hang 0 (until the line is gone), * delay 5, C_WrapKey more 5 (than
 * it gave is what it says it gave). The file is read anew at each call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "sg_pkcs11.h"

static sg_ck_function_list *real, mine;
static char base[4096];

static int told(const char *name, char *what, long *value) {
  char path[4200], line[256], function[128];
  int found = 0;
  snprintf(path, sizeof path, "%s.control", base);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  while (!found && fgets(line, sizeof line, f))
    if (sscanf(line, "%127s %15s %li", function, what, value) == 3)
      found = !strcmp(function, "*") || !strcmp(function, name);
  fclose(f);
  return found;
}

static CK_RV before(const char *name) {
  char what[16];
  long value;
  if (!told(name, what, &value)) return 0;
  if (!strcmp(what, "code")) return (CK_RV)value;
  if (!strcmp(what, "delay")) usleep((useconds_t)value * 1000);
  while (!strcmp(what, "hang")) {
    usleep(10000);
    if (!told(name, what, &value)) break;
  }
  return 0;
}

#define FORWARD(name, types, values)   \
  static CK_RV my_##name types {       \
    CK_RV rv = before(#name);          \
    return rv ? rv : real->name values; \
  }

/* For functions whose last argument is the length or count of the answer. */
#define FORWARD_COUNTED(name, types, values, count) \
  static CK_RV my_##name types {                    \
    char what[16];                                  \
    long value;                                     \
    CK_RV rv = before(#name);                       \
    if (!rv) rv = real->name values;                \
    if (!rv && told(#name, what, &value) && !strcmp(what, "more")) *(count) += (CK_ULONG)value; \
    return rv;                                      \
  }

FORWARD(C_Initialize, (void *a), (a))
FORWARD(C_GetSlotList, (CK_BBOOL p, CK_SLOT_ID *s, CK_ULONG *n), (p, s, n))
FORWARD(C_GetTokenInfo, (CK_SLOT_ID s, CK_TOKEN_INFO *i), (s, i))
FORWARD(C_OpenSession, (CK_SLOT_ID s, CK_FLAGS f, void *a, void *n, CK_SESSION_HANDLE *h),
        (s, f, a, n, h))
FORWARD(C_Login, (CK_SESSION_HANDLE h, CK_ULONG u, CK_BYTE *p, CK_ULONG n), (h, u, p, n))
FORWARD(C_FindObjectsInit, (CK_SESSION_HANDLE h, CK_ATTRIBUTE *t, CK_ULONG n), (h, t, n))
FORWARD(C_EncryptInit, (CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (h, m, k))
FORWARD(C_Encrypt, (CK_SESSION_HANDLE h, CK_BYTE *d, CK_ULONG n, CK_BYTE *o, CK_ULONG *on),
        (h, d, n, o, on))
FORWARD(C_DecryptInit, (CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (h, m, k))
FORWARD(C_Decrypt, (CK_SESSION_HANDLE h, CK_BYTE *d, CK_ULONG n, CK_BYTE *o, CK_ULONG *on),
        (h, d, n, o, on))
FORWARD(C_GenerateKey, (CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n,
                        CK_OBJECT_HANDLE *k), (h, m, t, n, k))
FORWARD_COUNTED(C_WrapKey, (CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE w,
                            CK_OBJECT_HANDLE k, CK_BYTE *o, CK_ULONG *n), (h, m, w, k, o, n), n)
FORWARD_COUNTED(C_GetMechanismList, (CK_SLOT_ID s, CK_MECHANISM_TYPE *t, CK_ULONG *n), (s, t, n), n)
FORWARD_COUNTED(C_FindObjects, (CK_SESSION_HANDLE h, CK_OBJECT_HANDLE *o, CK_ULONG most,
                                CK_ULONG *n), (h, o, most, n), n)
FORWARD(C_DestroyObject, (CK_SESSION_HANDLE h, CK_OBJECT_HANDLE o), (h, o))
FORWARD(C_GetAttributeValue, (CK_SESSION_HANDLE h, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n),
        (h, o, t, n))
FORWARD(C_UnwrapKey, (CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_BYTE *d,
                      CK_ULONG n, CK_ATTRIBUTE *t, CK_ULONG tn, CK_OBJECT_HANDLE *k),
        (h, m, w, d, n, t, tn, k))
FORWARD(C_GenerateRandom, (CK_SESSION_HANDLE h, CK_BYTE *o, CK_ULONG n), (h, o, n))

CK_RV C_GetFunctionList(sg_ck_function_list **list) {
  Dl_info self;
  char path[4200], target[4096] = "";
  if (!dladdr((void *)C_GetFunctionList, &self)) return 5;
  snprintf(base, sizeof base, "%s", self.dli_fname);
  snprintf(path, sizeof path, "%s.target", base);
  FILE *f = fopen(path, "r");
  if (!f) return 5;
  if (!fgets(target, sizeof target, f)) target[0] = 0;
  fclose(f);
  target[strcspn(target, "\n")] = 0;
  void *module = dlopen(target, RTLD_NOW | RTLD_LOCAL);
  if (!module) return 5;
  sg_ck_get_function_list get = (sg_ck_get_function_list)dlsym(module, "C_GetFunctionList");
  if (!get || get(&real)) return 5;
  mine = *real;
#define MINE(name) mine.name = my_##name
  MINE(C_Initialize); MINE(C_GetSlotList); MINE(C_GetTokenInfo); MINE(C_OpenSession);
  MINE(C_Login); MINE(C_FindObjectsInit); MINE(C_EncryptInit); MINE(C_Encrypt);
  MINE(C_DecryptInit); MINE(C_Decrypt); MINE(C_GenerateKey); MINE(C_WrapKey); MINE(C_UnwrapKey);
  MINE(C_GenerateRandom); MINE(C_GetMechanismList); MINE(C_FindObjects); MINE(C_DestroyObject);
  MINE(C_GetAttributeValue);
  *list = &mine;
  return 0;
}
