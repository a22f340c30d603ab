/* PKCS #11 v2.40 calls on objects, for ceremonies: members of the function list that sg_pkcs11.h
 * keeps for their place only, here with their types (base specification, sections 5.7 to 5.13). */
#ifndef SG_P11_OBJECTS_H
#define SG_P11_OBJECTS_H
#include "sg_pkcs11.h"

typedef struct {
  CK_MECHANISM_TYPE hashAlg;
  CK_ULONG mgf;
  CK_ULONG source;
  void *pSourceData;
  CK_ULONG ulSourceDataLen;
} sg_ck_oaep_params;

typedef struct {
  CK_ULONG ulAESKeyBits;
  sg_ck_oaep_params *pOAEPParams;
} sg_ck_rsa_aes_params;

/* by way of void(*)(void), the one function type that gcc lets stand for any other */
#define SG_CALL(f, name, type) ((type)(void (*)(void))(f)->name)

static CK_RV sg_p11_mechanism_list(sg_ck_function_list *f, CK_SLOT_ID slot, CK_MECHANISM_TYPE *out,
                                   CK_ULONG *n)
{
  return SG_CALL(f, C_GetMechanismList, CK_RV (*)(CK_SLOT_ID, CK_MECHANISM_TYPE *, CK_ULONG *))
      (slot, out, n);
}

static CK_RV sg_p11_create(sg_ck_function_list *f, CK_SESSION_HANDLE s, CK_ATTRIBUTE *t, CK_ULONG n,
                           CK_OBJECT_HANDLE *out)
{
  return SG_CALL(f, C_CreateObject,
                 CK_RV (*)(CK_SESSION_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *))
      (s, t, n, out);
}

static CK_RV sg_p11_destroy(sg_ck_function_list *f, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
  return SG_CALL(f, C_DestroyObject, CK_RV (*)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE))(s, o);
}

static CK_RV sg_p11_generate_pair(sg_ck_function_list *f, CK_SESSION_HANDLE s, CK_MECHANISM *m,
                                  CK_ATTRIBUTE *pub, CK_ULONG npub, CK_ATTRIBUTE *priv,
                                  CK_ULONG npriv, CK_OBJECT_HANDLE *opub, CK_OBJECT_HANDLE *opriv)
{
  return SG_CALL(f, C_GenerateKeyPair,
                 CK_RV (*)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG,
                           CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *, CK_OBJECT_HANDLE *))
      (s, m, pub, npub, priv, npriv, opub, opriv);
}

static CK_RV sg_p11_wrap(sg_ck_function_list *f, CK_SESSION_HANDLE s, CK_MECHANISM *m,
                         CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *n)
{
  return SG_CALL(f, C_WrapKey, CK_RV (*)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE,
                                         CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG *))
      (s, m, by, key, out, n);
}

static CK_RV sg_p11_unwrap(sg_ck_function_list *f, CK_SESSION_HANDLE s, CK_MECHANISM *m,
                           CK_OBJECT_HANDLE by, CK_BYTE *blob, CK_ULONG size, CK_ATTRIBUTE *t,
                           CK_ULONG n, CK_OBJECT_HANDLE *out)
{
  return SG_CALL(f, C_UnwrapKey,
                 CK_RV (*)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG,
                           CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *))
      (s, m, by, blob, size, t, n, out);
}

static CK_RV sg_p11_sign(sg_ck_function_list *f, CK_SESSION_HANDLE s, CK_MECHANISM *m,
                         CK_OBJECT_HANDLE key, CK_BYTE *data, CK_ULONG size, CK_BYTE *out,
                         CK_ULONG *n)
{
  CK_RV rv = SG_CALL(f, C_SignInit, CK_RV (*)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE))
      (s, m, key);
  if (rv != CKR_OK) return rv;
  return SG_CALL(f, C_Sign,
                 CK_RV (*)(CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *))
      (s, data, size, out, n);
}
#endif
