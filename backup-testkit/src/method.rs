//! The methods of the traits, by which scripts and recorders name calls.

/// A method that does I/O, of any of the traits. A name that two traits share is one method: a wrapper only ever meets those of its own trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Method {
    /// `Source::check`, `Destination::check`, `RestoreTarget::check`.
    Check,
    /// `Source::estimate`.
    Estimate,
    /// `Source::events`.
    Events,
    /// `Source::read`.
    Read,
    /// `Destination::now`.
    Now,
    /// `Destination::put`.
    Put,
    /// `Destination::get`, `Store::get`.
    Get,
    /// `Destination::stat`.
    Stat,
    /// `Destination::list`.
    List,
    /// `Destination::list_roots`.
    ListRoots,
    /// `Destination::delete`.
    Delete,
    /// `Destination::delete_many`.
    DeleteMany,
    /// `Destination::remove_staged`.
    RemoveStaged,
    /// `Destination::free_space`.
    FreeSpace,
    /// `RestoreTarget::is_empty`.
    IsEmpty,
    /// `RestoreTarget::prepare`.
    Prepare,
    /// `RestoreTarget::write_small`.
    WriteSmall,
    /// `RestoreTarget::write_large`.
    WriteLarge,
    /// `RestoreTarget::sync`.
    Sync,
    /// `RestoreTarget::finish`.
    Finish,
    /// `RestoreTarget::discard`.
    Discard,
    /// `RestoreTarget::verify`.
    Verify,
    /// `Store::create`.
    Create,
    /// `Store::query`.
    Query,
    /// `Store::totals`.
    Totals,
    /// `Store::claim`.
    Claim,
    /// `Store::claim_next`.
    ClaimNext,
    /// `Store::renew`.
    Renew,
    /// `Store::save_checkpoint`.
    SaveCheckpoint,
    /// `Store::checkpoint`.
    Checkpoint,
    /// `Store::transition`.
    Transition,
    /// `Store::request`.
    Request,
    /// `Store::append_log`.
    AppendLog,
    /// `Store::page_log`.
    PageLog,
    /// `Store::clear_logs`.
    ClearLogs,
    /// `Store::archives`.
    Archives,
    /// `Store::places`.
    Places,
    /// `Store::protect`.
    Protect,
    /// `Store::storage`.
    Storage,
    /// `Store::forget_archive`.
    ForgetArchive,
    /// `ConnectionStore::create_connection`.
    CreateConnection,
    /// `ConnectionStore::connection`.
    Connection,
    /// `ConnectionStore::connections`.
    Connections,
    /// `ConnectionStore::update_connection`.
    UpdateConnection,
    /// `ConnectionStore::record_check`.
    RecordCheck,
    /// `ConnectionStore::delete_connection`.
    DeleteConnection,
}

impl Method {
    /// Whether a call of it changes something, so that a reply can be lost after the effect.
    pub fn has_effect(self) -> bool {
        use Method as M;
        matches!(
            self,
            M::Put
                | M::Delete
                | M::RemoveStaged
                | M::Prepare
                | M::WriteSmall
                | M::WriteLarge
                | M::Sync
                | M::Finish
                | M::Discard
                | M::Create
                | M::Claim
                | M::ClaimNext
                | M::ClearLogs
                | M::Protect
                | M::Renew
                | M::SaveCheckpoint
                | M::Transition
                | M::Request
                | M::AppendLog
                | M::ForgetArchive
                | M::CreateConnection
                | M::UpdateConnection
                | M::RecordCheck
                | M::DeleteConnection
        )
    }

    /// Whether it delivers bytes as they arrive.
    pub fn has_body(self) -> bool {
        matches!(self, Method::Get | Method::Read)
    }

    /// Whether it delivers items as they arrive.
    pub fn has_items(self) -> bool {
        matches!(self, Method::Events | Method::List | Method::ListRoots)
    }
}
