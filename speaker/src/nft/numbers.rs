//! The kernel's numbers (`linux/netfilter/nf_tables.h` and `nfnetlink.h`), shared by encoder and decoder.

/// `NFNL_SUBSYS_NFTABLES`, as the high byte of a message type.
pub(crate) const SUBSYS: u16 = 10 << 8;
/// `NFNL_SUBSYS_NFTABLES` as the resource of a batch.
pub(crate) const BATCH_RESOURCE: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;

/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 10;

/// `enum nf_tables_msg_types`.
pub(crate) mod msg {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const NEWGEN: u16 = 15;
    pub(crate) const GETGEN: u16 = 16;
}

/// `enum nft_table_attributes` and the table flags.
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USE: u16 = 3;
    pub(crate) const HANDLE: u16 = 4;
    pub(crate) const OWNER: u16 = 7;
    pub(crate) const F_OWNER: u32 = 2;
    pub(crate) const F_PERSIST: u32 = 4;
}

/// `enum nft_chain_attributes` and `enum nft_hook_attributes`.
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUM: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const POLICY_ACCEPT: u32 = 1;
}

/// `enum nft_rule_attributes`, `enum nft_expr_attributes` and `NFTA_LIST_ELEM`.
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const LIST_ELEM: u16 = 1;
    pub(crate) const EXPR_NAME: u16 = 1;
    pub(crate) const EXPR_DATA: u16 = 2;
}

/// `enum nft_set_attributes`, set flags and descriptions.
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const DESC: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const DESC_SIZE: u16 = 1;
    pub(crate) const DESC_CONCAT: u16 = 2;
    pub(crate) const FIELD_LEN: u16 = 1;
    pub(crate) const F_ANONYMOUS: u32 = 1;
    pub(crate) const F_CONSTANT: u32 = 2;
    pub(crate) const F_INTERVAL: u32 = 4;
    pub(crate) const F_MAP: u32 = 8;
    pub(crate) const F_TIMEOUT: u32 = 0x10;
    pub(crate) const F_EVAL: u32 = 0x20;
    pub(crate) const F_CONCAT: u32 = 0x80;
    /// `NFT_DATA_VERDICT`.
    pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;
    /// Each field of a concatenated type takes six bits of the type number (`nft`'s `TYPE_BITS`).
    pub(crate) const TYPE_BITS: u32 = 6;
}

/// `enum nft_set_elem_list_attributes`, `enum nft_set_elem_attributes` and `enum nft_data_attributes`.
pub(crate) mod elem {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const SET: u16 = 2;
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const SET_ID: u16 = 4;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const TIMEOUT: u16 = 4;
    pub(crate) const EXPIRATION: u16 = 5;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const F_INTERVAL_END: u32 = 1;
    pub(crate) const DATA_VALUE: u16 = 1;
    pub(crate) const DATA_VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

/// Verdict codes (`NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_GOTO`) as they go over the wire.
pub(crate) const NF_DROP: u32 = 0;
pub(crate) const NF_ACCEPT: u32 = 1;
pub(crate) const NFT_JUMP: u32 = 0xffff_fffd;
pub(crate) const NFT_GOTO: u32 = 0xffff_fffc;
/// `NFT_RETURN`.
pub(crate) const NFT_RETURN: u32 = 0xffff_fffb;

/// Attributes of expressions, by expression.
pub(crate) mod expr {
    /// `NFT_REG32_00`: the first of the 32-bit registers; `NFT_REG_VERDICT` is 0.
    pub(crate) const REG32: u32 = 8;
    pub(crate) const REG_VERDICT: u32 = 0;

    pub(crate) const META_DREG: u16 = 1;
    pub(crate) const META_KEY: u16 = 2;
    pub(crate) const META_SREG: u16 = 3;
    pub(crate) const META_PRIORITY: u32 = 2;
    pub(crate) const META_NFPROTO: u32 = 15;
    pub(crate) const META_L4PROTO: u32 = 16;

    pub(crate) const PAYLOAD_DREG: u16 = 1;
    pub(crate) const PAYLOAD_BASE: u16 = 2;
    pub(crate) const PAYLOAD_OFFSET: u16 = 3;
    pub(crate) const PAYLOAD_LEN: u16 = 4;
    pub(crate) const PAYLOAD_NETWORK: u32 = 1;
    pub(crate) const PAYLOAD_TRANSPORT: u32 = 2;

    pub(crate) const CT_DREG: u16 = 1;
    pub(crate) const CT_KEY: u16 = 2;
    pub(crate) const CT_DIRECTION: u16 = 3;
    pub(crate) const CT_STATE: u32 = 0;
    pub(crate) const CT_STATUS: u32 = 2;
    pub(crate) const CT_PROTO_DST: u32 = 12;
    pub(crate) const CT_SRC_IP: u32 = 19;
    pub(crate) const CT_DST_IP: u32 = 20;
    pub(crate) const CT_SRC_IP6: u32 = 21;
    pub(crate) const CT_DST_IP6: u32 = 22;

    pub(crate) const FIB_DREG: u16 = 1;
    pub(crate) const FIB_RESULT: u16 = 2;
    pub(crate) const FIB_FLAGS: u16 = 3;
    pub(crate) const FIB_RESULT_ADDRTYPE: u32 = 3;
    pub(crate) const FIB_F_SADDR: u32 = 1;

    pub(crate) const CMP_SREG: u16 = 1;
    pub(crate) const CMP_OP: u16 = 2;
    pub(crate) const CMP_DATA: u16 = 3;
    pub(crate) const CMP_EQ: u32 = 0;
    pub(crate) const CMP_NEQ: u32 = 1;

    pub(crate) const BITWISE_SREG: u16 = 1;
    pub(crate) const BITWISE_DREG: u16 = 2;
    pub(crate) const BITWISE_LEN: u16 = 3;
    pub(crate) const BITWISE_MASK: u16 = 4;
    pub(crate) const BITWISE_XOR: u16 = 5;

    pub(crate) const LOOKUP_SET: u16 = 1;
    pub(crate) const LOOKUP_SREG: u16 = 2;
    pub(crate) const LOOKUP_DREG: u16 = 3;
    pub(crate) const LOOKUP_SET_ID: u16 = 4;

    pub(crate) const DYNSET_SET: u16 = 1;
    pub(crate) const DYNSET_OP: u16 = 3;
    pub(crate) const DYNSET_KEY: u16 = 4;
    pub(crate) const DYNSET_DATA: u16 = 5;
    pub(crate) const DYNSET_TIMEOUT: u16 = 6;
    /// `NFT_DYNSET_OP_UPDATE`.
    pub(crate) const DYNSET_UPDATE: u32 = 1;

    pub(crate) const HASH_SREG: u16 = 1;
    pub(crate) const HASH_DREG: u16 = 2;
    pub(crate) const HASH_LEN: u16 = 3;
    pub(crate) const HASH_MODULUS: u16 = 4;
    pub(crate) const HASH_SEED: u16 = 5;
    pub(crate) const HASH_OFFSET: u16 = 6;
    pub(crate) const HASH_TYPE: u16 = 7;
    pub(crate) const HASH_JENKINS: u32 = 0;

    pub(crate) const NAT_TYPE: u16 = 1;
    pub(crate) const NAT_FAMILY: u16 = 2;
    pub(crate) const NAT_ADDR_MIN: u16 = 3;
    pub(crate) const NAT_ADDR_MAX: u16 = 4;
    pub(crate) const NAT_PROTO_MIN: u16 = 5;
    pub(crate) const NAT_PROTO_MAX: u16 = 6;
    pub(crate) const NAT_SNAT: u32 = 0;
    pub(crate) const NAT_DNAT: u32 = 1;

    pub(crate) const MASQ_FLAGS: u16 = 1;
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
    pub(crate) const FULLY_RANDOM: u32 = 1 << 4;

    pub(crate) const REJECT_TYPE: u16 = 1;
    pub(crate) const REJECT_CODE: u16 = 2;
    pub(crate) const REJECT_TCP_RST: u32 = 1;
    /// `NFT_REJECT_ICMPX_UNREACH`: the ICMP of the packet's family.
    pub(crate) const REJECT_ICMPX: u32 = 2;
    /// `NFT_REJECT_ICMPX_PORT_UNREACH`.
    pub(crate) const REJECT_PORT: u8 = 1;

    pub(crate) const IMMEDIATE_DREG: u16 = 1;
    pub(crate) const IMMEDIATE_DATA: u16 = 2;
}
