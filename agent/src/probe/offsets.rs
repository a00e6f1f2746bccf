//! Offsets inside kernel structures, from the kernel's own BTF.
//!
//! Rust BPF programs carry no CO-RE relocations, so user space looks the offsets up and passes them as a global.

use std::path::Path;

use adder_ebpf::Offsets;
use btf_rs::{Btf, Member, Type};

/// Why the offsets could not be found.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// The kernel offers no BTF.
    #[error(
        "this kernel offers no type information at /sys/kernel/btf/vmlinux ({0}): Adder needs one built with \
         CONFIG_DEBUG_INFO_BTF, as Debian 11 and later have"
    )]
    NoBtf(String),
    /// A structure or field is not there.
    #[error("the kernel's type information has no `{0}`: this kernel is not supported, please report it")]
    Missing(String),
}

/// Fields that the programs read where they have been since Linux 2.6 (`struct fdtable`, include/linux/fdtable.h) and
/// 5.3 (`struct socket`, include/linux/net.h), several at a time.
const FIXED: [(&str, &str, u32); 4] =
    [("fdtable", "max_fds", 0), ("fdtable", "fd", 8), ("socket", "type", 4), ("socket", "sk", 24)];

/// Reads the offsets of the running kernel.
pub fn kernel_offsets() -> Result<Offsets, OffsetsError> {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    let btf = Btf::from_file(path).map_err(|error| OffsetsError::NoBtf(error.to_string()))?;
    let find = |structure: &str, path: &str| offset_of(&btf, structure, path);
    for (structure, field, at) in FIXED {
        if find(structure, field)? != at {
            return Err(OffsetsError::Missing(format!("struct {structure}.{field} at {at}")));
        }
    }
    Ok(Offsets {
        task_pid: find("task_struct", "pid")?,
        task_tgid: find("task_struct", "tgid")?,
        task_files: find("task_struct", "files")?,
        task_fsbase: find("task_struct", "thread.fsbase")?,
        files_fdt: find("files_struct", "fdt")?,
        file_inode: find("file", "f_inode")?,
        file_private: find("file", "private_data")?,
        inode_ino: find("inode", "i_ino")?,
        inode_mode: find("inode", "i_mode")?,
        inode_rdev: find("inode", "i_rdev")?,
        inode_sb: find("inode", "i_sb")?,
        sb_magic: find("super_block", "s_magic")?,
        sk_family: find("sock_common", "skc_family")?,
        sk_daddr: find("sock_common", "skc_daddr")?,
        sk_rcv_saddr: find("sock_common", "skc_rcv_saddr")?,
        sk_dport: find("sock_common", "skc_dport")?,
        sk_num: find("sock_common", "skc_num")?,
        sk_v6_daddr: find("sock_common", "skc_v6_daddr")?,
        sk_v6_rcv_saddr: find("sock_common", "skc_v6_rcv_saddr")?,
        sk_net: find("sock_common", "skc_net.net")?,
        sk_socket: find("sock", "sk_socket")?,
        net_inum: find("net", "ns.inum")?,
        unix_addr: find("unix_sock", "addr")?,
        unix_peer: find("unix_sock", "peer")?,
        unix_address_len: find("unix_address", "len")?,
        unix_address_name: find("unix_address", "name")?,
        socket_inode: find("socket_alloc", "vfs_inode")?,
    })
}

/// Byte offset of a field, given as a path of names; members of anonymous structures and unions count as the outer
/// structure's own, as in C.
fn offset_of(btf: &Btf, structure: &str, path: &str) -> Result<u32, OffsetsError> {
    let missing = || OffsetsError::Missing(format!("struct {structure}.{path}"));
    let types = btf.resolve_types_by_name(structure).map_err(|_| missing())?;
    let mut current = types.into_iter().find(|found| matches!(found, Type::Struct(_))).ok_or_else(missing)?;
    let mut bits = 0;
    for name in path.split('.') {
        let (at, inner) = member(btf, &current, name).ok_or_else(missing)?;
        bits += at;
        current = inner;
    }
    Ok(bits / 8)
}

/// Bit offset and type of a member.
fn member(btf: &Btf, of: &Type, name: &str) -> Option<(u32, Type)> {
    let (Type::Struct(structure) | Type::Union(structure)) = of else { return None };
    for member in &structure.members {
        let member: &Member = member;
        let found = btf.resolve_name(member).unwrap_or_default();
        let inner = strip(btf, btf.resolve_chained_type(member).ok()?);
        if found == name {
            return Some((member.bit_offset(), inner));
        }
        if found.is_empty()
            && let Some((at, inner)) = self::member(btf, &inner, name)
        {
            return Some((member.bit_offset() + at, inner));
        }
    }
    None
}

/// The type behind type definitions and qualifiers.
fn strip(btf: &Btf, mut found: Type) -> Type {
    loop {
        let next = match &found {
            Type::Typedef(inner) => btf.resolve_chained_type(inner),
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner)
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner),
            _ => return found,
        };
        match next {
            Ok(inner) => found = inner,
            Err(_) => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_offset() {
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            eprintln!("skipped: this kernel offers no BTF");
            return;
        }
        let offsets = kernel_offsets().expect("a kernel with BTF has these structures");
        assert_ne!(offsets.task_fsbase, 0);
        assert_ne!(offsets.socket_inode, 0);
    }
}
