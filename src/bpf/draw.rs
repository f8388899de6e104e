//! How a portrait is drawn (`portrait`): the steps of the kernel's program, from the present task to what /proc would say of it.
//!
//! Keeps one rule: every step may fail, and then there is no portrait. Memory is read by helpers that fail where there is none.

use super::btf::{self, Structures};
use super::code::{Code, Helper, Jump, Len, R, STACK};
use super::portrait::{
    ARGUMENTS, CGROUP, CGROUP_LEN, CMDLINE, CMDLINE_LEN, CWD, DEVICE, EXE, INODE, LEN, MOUNT, NAMES, OF, OF_AGAIN, PARENT,
    PLACES, Portraits, ROOT_DEVICE, ROOT_INODE, SCRIPT_DEVICE, SCRIPT_INODE, STARTED, TAKEN, TEXT, TOGETHER, USER,
};
use super::sys::Map;

/// Room for one name.
const NAME: i16 = 256;
/// Directories above a file, at most.
const DEPTH: usize = 16;
/// The shell that sends datagrams itself, by the begin of its name, and the descriptor at which it keeps the script that it runs.
const SHELL: [u8; 4] = *b"bash";
const SCRIPT: i16 = 255;

/// Where the kernel keeps what makes a portrait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    mm: i16,
    fs: i16,
    cred: i16,
    parent: i16,
    leader: i16,
    pid: i16,
    started: i16,
    cgroups: i16,
    cgroup: i16,
    cgroup_node: i16,
    node_name: i16,
    node_parent: i16,
    euid: i16,
    exe: i16,
    arguments: i16,
    arguments_end: i16,
    file_path: i16,
    root: i16,
    pwd: i16,
    path_mount: i16,
    path_entry: i16,
    mount: i16,
    mount_id: i16,
    entry_parent: i16,
    entry_name: i16,
    entry_inode: i16,
    inode: i16,
    inode_fs: i16,
    fs_device: i16,
    files: i16,
    table: i16,
    table_len: i16,
    descriptors: i16,
    file_inode: i16,
}

impl Fields {
    /// None: this kernel does not say, or keeps it otherwise.
    pub(super) fn find() -> Option<Self> {
        Self::of(&std::fs::read(btf::PATH).ok()?)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        const STRUCTURES: [&str; 16] = [
            "task_struct",
            "mm_struct",
            "cred",
            "file",
            "path",
            "fs_struct",
            "mount",
            "dentry",
            "qstr",
            "inode",
            "super_block",
            "css_set",
            "cgroup",
            "kernfs_node",
            "files_struct",
            "fdtable",
        ];
        let of = Structures::read(bytes, &STRUCTURES)?;
        let at = |path| of.offset(path);
        Some(Self {
            mm: at("task_struct.mm")?,
            fs: at("task_struct.fs")?,
            cred: at("task_struct.cred")?,
            parent: at("task_struct.real_parent")?,
            leader: at("task_struct.group_leader")?,
            pid: at("task_struct.tgid")?,
            started: at("task_struct.start_boottime")?,
            cgroups: at("task_struct.cgroups")?,
            cgroup: at("css_set.dfl_cgrp")?,
            cgroup_node: at("cgroup.kn")?,
            node_name: at("kernfs_node.name")?,
            node_parent: at("kernfs_node.__parent").or_else(|| at("kernfs_node.parent"))?,
            euid: at("cred.euid")?,
            exe: at("mm_struct.exe_file")?,
            arguments: at("mm_struct.arg_start")?,
            arguments_end: at("mm_struct.arg_end")?,
            file_path: at("file.f_path")?,
            root: at("fs_struct.root")?,
            pwd: at("fs_struct.pwd")?,
            path_mount: at("path.mnt")?,
            path_entry: at("path.dentry")?,
            mount: at("mount.mnt")?,
            mount_id: at("mount.mnt_id")?,
            entry_parent: at("dentry.d_parent")?,
            entry_name: at("dentry.d_name.name").or_else(|| Some(at("dentry.d_name")? + at("qstr.name")?))?,
            entry_inode: at("dentry.d_inode")?,
            inode: at("inode.i_ino")?,
            inode_fs: at("inode.i_sb")?,
            fs_device: at("super_block.s_dev")?,
            files: at("task_struct.files")?,
            table: at("files_struct.fdt")?,
            table_len: at("fdtable.max_fds")?,
            descriptors: at("fdtable.fd")?,
            file_inode: at("file.f_inode")?,
        })
    }
}

impl Portraits {
    /// Portrays the present process under the cookie that stands at `key`. Uses R6 to R9, and the stack below `key`.
    pub(super) fn draw(&self, code: &mut Code, key: i16) {
        let Fields { mm, fs, cred, parent, leader, pid, started, cgroups, euid, exe, arguments, arguments_end, .. } = self.fields;
        let mut pen = Pen { code, out: Vec::new(), word: key - 8, fields: self.fields };
        let no_room = pen.begin(&self.map, key);
        pen.code.call(Helper::CurrentTask).copy(TASK, R(0));
        // /proc tells the cgroups of the parent by their names.
        pen.begin_at(&[cgroups]);
        pen.code.copy(ROOM, AT);
        pen.begin_at(&[parent]);
        pen.field(Len::Four, pid, PARENT);
        pen.follow(cgroups);
        let elsewhere = pen.code.jump_unless_same(AT, ROOM);
        pen.code.set(R(1), 1).store(Len::Four, SHEET, TOGETHER, R(1)).land([elsewhere]);
        pen.begin_at(&[cgroups, self.fields.cgroup, self.fields.cgroup_node]);
        pen.names(self.fields.node_name, self.fields.node_parent, CGROUP_LEN, CGROUP);
        pen.begin_at(&[leader]);
        pen.field(Len::Eight, started, STARTED);
        pen.begin_at(&[cred]);
        pen.field(Len::Four, euid, USER);
        pen.begin_at(&[mm, exe]);
        pen.place(self.fields.file_path, EXE);
        pen.may_fail(Pen::script);
        pen.may_fail(|pen| {
            pen.begin_at(&[fs]);
            pen.place(pen.fields.pwd, CWD);
        });
        pen.begin_at(&[fs]);
        pen.step(self.fields.root);
        pen.follow(self.fields.path_entry);
        pen.follow(self.fields.entry_inode);
        pen.file(ROOT_INODE, ROOT_DEVICE);
        pen.begin_at(&[mm, arguments]);
        pen.code.copy(ROOM, AT);
        pen.begin_at(&[mm, arguments_end]);
        pen.cmdline();
        pen.end(key, no_room);
    }
}

/// Where the portrait is drawn, who is portrayed, what is looked at, and how much room is taken.
const SHEET: R = R(7);
const TASK: R = R(8);
const AT: R = R(9);
const ROOM: R = R(6);

/// Writes the steps of a portrait. The jumps are for when it cannot be whole.
struct Pen<'a> {
    code: &'a mut Code,
    out: Vec<Jump>,
    /// Of the stack, for one word.
    word: i16,
    fields: Fields,
}

impl Pen<'_> {
    /// Takes the place of the cookie at `key`, and empties it. The jumps are for when it is not to be had.
    fn begin(&mut self, map: &Map, key: i16) -> [Jump; 2] {
        let code = &mut *self.code;
        code.load(Len::Eight, R(1), STACK, key).and(R(1), PLACES.cast_signed() - 1).store(Len::Four, STACK, self.word, R(1));
        code.map_and_key(map, self.word).call(Helper::MapLookup);
        let none = code.jump_if(R(0), 0);
        code.copy(SHEET, R(0)).load(Len::Eight, R(1), STACK, key).set(R(0), 0).exchange(SHEET, TAKEN, R(1));
        let taken = code.jump_unless(R(0), 0);
        code.set(R(1), 0);
        code.store(Len::Eight, SHEET, OF_AGAIN, R(1)).store(Len::Eight, SHEET, CMDLINE_LEN, R(1)).store(
            Len::Eight,
            SHEET,
            SCRIPT_INODE,
            R(1),
        );
        // What follows is written behind that, on every processor.
        code.store(Len::Eight, SHEET, OF, R(1)).store(Len::Four, SHEET, TOGETHER, R(1)).set(R(0), 0).exchange(SHEET, OF, R(1));
        [none, taken]
    }

    /// Says whose it is, and leaves the place; without having said so where a step has failed.
    fn end(self, key: i16, not_begun: [Jump; 2]) {
        let Self { code, out, .. } = self;
        code.load(Len::Eight, R(1), STACK, key);
        code.set(R(0), 0).exchange(SHEET, OF_AGAIN, R(1)).set(R(0), 0).exchange(SHEET, OF, R(1));
        code.land(out).load(Len::Eight, R(0), STACK, key).set(R(1), 0).exchange(SHEET, TAKEN, R(1)).land(not_begun);
    }

    fn step(&mut self, field: i16) {
        self.code.add(AT, field);
    }

    /// AT becomes what the field points to.
    fn follow(&mut self, field: i16) {
        self.peek(field);
        self.code.load(Len::Eight, AT, STACK, self.word);
    }

    /// Puts a field of eight bytes to the stack.
    fn peek(&mut self, field: i16) {
        self.code.copy(R(1), STACK).add(R(1), self.word).set(R(2), 8).copy(R(3), AT).add(R(3), field).call(Helper::ReadKernel);
        self.out.push(self.code.jump_unless(R(0), 0));
    }

    /// AT becomes what the task leads to.
    fn begin_at(&mut self, fields: &[i16]) {
        self.code.copy(AT, TASK);
        fields.iter().for_each(|field| self.follow(*field));
    }

    /// Copies a field.
    fn field(&mut self, len: Len, field: i16, to: i16) {
        let bytes = if matches!(len, Len::Eight) { 8 } else { 4 };
        self.code.copy(R(1), SHEET).add(R(1), to).set(R(2), bytes).copy(R(3), AT).add(R(3), field).call(Helper::ReadKernel);
        self.out.push(self.code.jump_unless(R(0), 0));
    }

    /// Notes the file of an inode.
    fn file(&mut self, inode: i16, device: i16) {
        self.field(Len::Eight, self.fields.inode, inode);
        self.follow(self.fields.inode_fs);
        self.field(Len::Four, self.fields.fs_device, device);
    }

    /// Notes the place that a path within AT leads to.
    fn place(&mut self, path: i16, to: i16) {
        let Fields { path_mount, path_entry, mount, mount_id, entry_parent, entry_name, entry_inode, .. } = self.fields;
        self.step(path);
        self.code.copy(ROOM, AT);
        self.follow(path_mount);
        self.field(Len::Four, mount_id.saturating_sub(mount), to + MOUNT);
        self.code.copy(AT, ROOM);
        self.follow(path_entry);
        self.code.copy(ROOM, AT);
        self.follow(entry_inode);
        self.file(to + INODE, to + DEVICE);
        self.code.copy(AT, ROOM);
        self.names(entry_name, entry_parent, to + LEN, to + TEXT);
    }

    /// Notes the name of AT and of all above it.
    fn names(&mut self, name: i16, parent: i16, len: i16, to: i16) {
        self.code.set(ROOM, 0);
        let mut at_root = Vec::new();
        for _ in 0..=DEPTH {
            self.peek(name);
            self.code.copy(R(1), SHEET).add(R(1), to).add_both(R(1), ROOM).set(R(2), NAME.into());
            self.code.load(Len::Eight, R(3), STACK, self.word).call(Helper::ReadKernelText);
            self.out.push(self.code.jump_unless_positive(R(0)));
            self.code.add_both(ROOM, R(0));
            self.peek(parent);
            self.code.load(Len::Eight, R(1), STACK, self.word);
            // That of files leads back to itself, that of cgroups nowhere.
            at_root.push(self.code.jump_if_same(R(1), AT));
            at_root.push(self.code.jump_if(R(1), 0));
            self.code.copy(AT, R(1));
            self.out.push(self.code.jump_if_more(ROOM, NAMES - NAME));
        }
        self.out.push(self.code.jump_over());
        self.code.land(at_root).store(Len::Eight, SHEET, len, ROOM);
    }

    /// Takes steps without which the portrait is whole, too.
    fn may_fail(&mut self, steps: impl FnOnce(&mut Self)) {
        let out = std::mem::take(&mut self.out);
        steps(self);
        let failed = std::mem::replace(&mut self.out, out);
        self.code.land(failed);
    }

    /// Notes the script of a shell.
    fn script(&mut self) {
        let Fields { files, table, table_len, descriptors, file_inode, .. } = self.fields;
        self.code.load(Len::Four, ROOM, SHEET, EXE + TEXT).set(R(1), i32::from_ne_bytes(SHELL));
        let another = self.code.jump_unless_same(ROOM, R(1));
        self.begin_at(&[files, table]);
        self.peek(table_len);
        self.code.load(Len::Four, R(1), STACK, self.word);
        let longer = self.code.jump_if_more(R(1), SCRIPT);
        let too_short = self.code.jump_over();
        self.code.land([longer]);
        self.follow(descriptors);
        self.follow(SCRIPT * 8);
        self.follow(file_inode);
        self.file(SCRIPT_INODE, SCRIPT_DEVICE);
        self.code.land([another, too_short]);
    }

    /// Notes the arguments, which begin at ROOM and end at AT.
    fn cmdline(&mut self) {
        self.code.copy(R(2), AT).subtract(R(2), ROOM).copy(AT, R(2));
        let too_long = self.code.jump_if_more(R(2), ARGUMENTS);
        let none = self.code.jump_if(R(2), 0);
        self.code.copy(R(1), SHEET).add(R(1), CMDLINE).copy(R(3), ROOM).call(Helper::ReadUser);
        let not_there = self.code.jump_unless(R(0), 0);
        self.code.store(Len::Eight, SHEET, CMDLINE_LEN, AT).land([too_long, none, not_there]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_where_its_fields_are_or_nothing() {
        let Ok(bytes) = std::fs::read(btf::PATH) else { return assert!(Fields::find().is_none()) };
        let fields = Fields::of(&bytes).expect("all are there");
        assert!(fields.mm != fields.fs && fields.entry_parent != fields.entry_name);
    }
}
