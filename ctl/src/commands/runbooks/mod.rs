pub(super) mod lint;
pub(super) mod list;
pub(super) mod show;
pub(super) mod test;
