//! The data directory of a private cluster: its lock, its one-time making, its configuration and socket directory.
//!
//! ```text
//! <data dir>/postgres.lock      held while we run; its content names the holder
//! <data dir>/postgres.log       what the server says
//! <data dir>/postgres.password  for TCP; the socket needs none
//! <data dir>/pgdata             the cluster, once it is complete
//! <data dir>/pgdata.new         the cluster while initdb makes it
//! <data dir>/run                the socket, unless the path is too long for one
//! ```

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::account::Account;
use super::error::{Attempt, ClusterError};
use super::{ClusterOptions, Durability, SUPERUSER, leftover, settings};

/// `sockaddr_un` holds 108 bytes with the closing zero, and `/.s.PGSQL.65535` goes into them too.
const SOCKET_DIR_BYTES_MAX: usize = 107 - "/.s.PGSQL.65535".len();
/// A log of this size is set aside at the next start, one generation deep.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// What an error shows of a program's output or of the log.
const TAIL_BYTES_MAX: usize = 3_000;

/// Who may connect: the socket directory is private, so it needs no password; TCP is open to everyone on the machine.
const PG_HBA: &str = "\
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
";

/// A locked data directory.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) options: ClusterOptions,
    pub(super) account: Account,
    pub(super) pgdata: PathBuf,
    pub(super) socket_dir: PathBuf,
    socket_dir_is_temporary: bool,
    /// Unlocked by the operating system when we end, however we end.
    _lock: File,
}

impl Home {
    /// Takes the lock, ends what a predecessor left running, and makes the cluster if there is none yet.
    pub(super) async fn open(mut options: ClusterOptions) -> Result<Self, ClusterError> {
        let account = Account::choose().await?;
        options.data_dir = make_data_dir(&options.data_dir, &account)?;
        let dir = &options.data_dir;
        let lock = lock(dir)?;
        account.require_entry(dir).await?;
        let pgdata = dir.join("pgdata");
        if pgdata.join("PG_VERSION").exists() {
            check_version(&pgdata, options.binaries.major_version())?;
            leftover::end_all(&pgdata).await?;
            account.own_all(&pgdata)?;
        } else {
            make_cluster(&options, &account, &pgdata).await?;
        }
        let (socket_dir, socket_dir_is_temporary) = make_socket_dir(&options, &account)?;
        Ok(Home {
            account,
            pgdata,
            socket_dir,
            socket_dir_is_temporary,
            _lock: lock,
            options,
        })
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.options.data_dir.join("postgres.log")
    }

    /// Opens the log for appending and tells where it ends now.
    pub(super) fn open_log(&self) -> Result<(File, u64), ClusterError> {
        let path = self.log_file();
        if path.metadata().is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            std::fs::rename(&path, path.with_extension("log.1")).attempt("set aside", &path)?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .attempt("open", &path)?;
        let length = log.metadata().attempt("look at", &path)?.len();
        Ok((log, length))
    }

    /// The end of what the log says since it was `from` bytes long.
    pub(super) fn log_tail(&self, from: u64) -> String {
        let Ok(log) = std::fs::read(self.log_file()) else {
            return "(no log)".to_owned();
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(log.len());
        tail(&log[from..])
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.options.data_dir.join("postgres.password")
    }

    /// Writes the file only once the server knows the password, and then whole.
    pub(super) fn write_password(&self, password: &str) -> Result<(), ClusterError> {
        let path = self.password_file();
        let new = path.with_extension("password.new");
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .attempt("create", &new)?;
        writeln!(file, "{password}").attempt("write", &new)?;
        std::fs::rename(&new, &path).attempt("create", path)
    }

    /// Writes the settings of this start. `ALTER SYSTEM` and `postgresql.conf` after the include come later in
    /// PostgreSQL's order, so what an operator sets there stands.
    pub(super) async fn write_settings(&self) -> Result<(), ClusterError> {
        let lz4 = self.supports("default_toast_compression", "lz4").await?;
        let text = settings::render(self.options.durability, lz4, &self.options.settings)?;
        let path = self.pgdata.join("sheaf.conf");
        std::fs::write(&path, text).attempt("write", &path)?;
        self.account.own(&path)
    }

    /// Asks the server program whether it was built with a choice that not every build has.
    async fn supports(&self, setting: &str, value: &str) -> Result<bool, ClusterError> {
        let postgres = self.options.binaries.program("postgres");
        let mut command = self.account.command(&postgres);
        command
            .arg("-D")
            .arg(&self.pgdata)
            .args(["-c", &format!("{setting}={value}"), "-C", setting])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = tokio::process::Command::from(command)
            .status()
            .await
            .attempt("run", postgres)?;
        Ok(status.success())
    }

    /// Removes a socket directory outside the data directory.
    pub(super) fn tidy(&self) {
        if self.socket_dir_is_temporary {
            let _ = std::fs::remove_dir(&self.socket_dir);
        }
    }

    /// Makes the socket directory again if something emptied the temporary directory meanwhile.
    pub(super) fn ensure_socket_dir(&self) -> Result<(), ClusterError> {
        make_private_dir(&self.socket_dir, &self.account)
    }
}

/// Makes the directory and lets the account pass through it. What lies in it directly is ours and readable by us only.
fn make_data_dir(dir: &Path, account: &Account) -> Result<PathBuf, ClusterError> {
    if !dir.exists() {
        let mode = if account.we_are_root() { 0o711 } else { 0o700 };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(dir)
            .attempt("create", dir)?;
    }
    let dir = dir.canonicalize().attempt("resolve", dir)?;
    if account.we_are_root() {
        let mode = dir.metadata().attempt("look at", &dir)?.mode();
        std::fs::set_permissions(&dir, Permissions::from_mode((mode | 0o011) & 0o7777))
            .attempt("change the mode of", &dir)?;
    }
    Ok(dir)
}

fn lock(dir: &Path) -> Result<File, ClusterError> {
    let path = dir.join("postgres.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .attempt("open", &path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = holder.trim();
            return Err(ClusterError::InUse {
                dir: dir.to_path_buf(),
                holder: if holder.is_empty() { "unknown" } else { holder }.to_owned(),
            });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(source).attempt("lock", path),
    }
    file.set_len(0).attempt("write", &path)?;
    writeln!(file, "{}", std::process::id()).attempt("write", &path)?;
    Ok(file)
}

fn check_version(pgdata: &Path, found: u32) -> Result<(), ClusterError> {
    let file = pgdata.join("PG_VERSION");
    let written_by = std::fs::read_to_string(&file).attempt("read", file)?;
    let written_by = written_by.trim();
    if written_by == found.to_string() {
        return Ok(());
    }
    Err(ClusterError::OtherVersion {
        dir: pgdata.to_path_buf(),
        written_by: written_by.to_owned(),
        found,
    })
}

/// Makes the cluster beside its place and moves it there when it is complete, so that whatever stands in its place
/// can be started, and a making that was cut short is thrown away.
async fn make_cluster(
    options: &ClusterOptions,
    account: &Account,
    pgdata: &Path,
) -> Result<(), ClusterError> {
    if pgdata.exists() && std::fs::remove_dir(pgdata).is_err() {
        return Err(ClusterError::NotACluster {
            dir: pgdata.to_path_buf(),
        });
    }
    let new = pgdata.with_extension("new");
    if new.exists() {
        leftover::end_all(&new).await?;
        std::fs::remove_dir_all(&new).attempt("remove", &new)?;
    }
    make_private_dir(&new, account)?;
    run_initdb(options, account, &new).await?;
    let sync = options.durability == Durability::Full;
    // Both files exist and belong to the account already; writing into them keeps it so.
    write_in_place(&new.join("pg_hba.conf"), PG_HBA, false, sync)?;
    let include = "\n# Written anew at every start.\ninclude_if_exists 'sheaf.conf'\n";
    write_in_place(&new.join("postgresql.conf"), include, true, sync)?;
    std::fs::rename(&new, pgdata).attempt("move into place", &new)?;
    if sync {
        let dir = &options.data_dir;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .attempt("sync", dir)?;
    }
    Ok(())
}

async fn run_initdb(
    options: &ClusterOptions,
    account: &Account,
    into: &Path,
) -> Result<(), ClusterError> {
    let initdb = options.binaries.program("initdb");
    let mut command = account.command(&initdb);
    command
        .arg("--pgdata")
        .arg(into)
        .args(["--username", SUPERUSER])
        .args(["--encoding=UTF8", "--locale=C", "--auth=trust"])
        // Its working directory tells a later start that it belongs to this making.
        .current_dir(into);
    if options.durability == Durability::Test {
        command.arg("--no-sync");
    }
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .attempt("run", &initdb)?;
    if output.status.success() {
        return Ok(());
    }
    Err(ClusterError::Program {
        program: initdb.display().to_string(),
        output: tail(&output.stderr),
    })
}

fn write_in_place(path: &Path, text: &str, append: bool, sync: bool) -> Result<(), ClusterError> {
    let mut file = OpenOptions::new()
        .write(!append)
        .truncate(!append)
        .append(append)
        .open(path)
        .attempt("open", path)?;
    file.write_all(text.as_bytes()).attempt("write", path)?;
    if sync {
        file.sync_all().attempt("sync", path)?;
    }
    Ok(())
}

/// `<data dir>/run`, or a fresh directory in the temporary directory if that path is too long.
fn make_socket_dir(
    options: &ClusterOptions,
    account: &Account,
) -> Result<(PathBuf, bool), ClusterError> {
    let beside = options.data_dir.join("run");
    if fits(&beside) {
        make_private_dir(&beside, account)?;
        return Ok((beside, false));
    }
    let name = format!("sheaf-{}", uuid::Uuid::new_v4().simple());
    let elsewhere = options.temp_dir.join(name);
    if !fits(&elsewhere) {
        return Err(ClusterError::SocketPath { dir: elsewhere });
    }
    make_private_dir(&elsewhere, account)?;
    Ok((elsewhere, true))
}

fn fits(socket_dir: &Path) -> bool {
    socket_dir.as_os_str().as_bytes().len() <= SOCKET_DIR_BYTES_MAX
}

fn make_private_dir(dir: &Path, account: &Account) -> Result<(), ClusterError> {
    if !dir.exists() {
        DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .attempt("create", dir)?;
    }
    account.own(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).attempt("change the mode of", dir)
}

fn tail(output: &[u8]) -> String {
    let from = output.len().saturating_sub(TAIL_BYTES_MAX);
    String::from_utf8_lossy(&output[from..]).trim().to_owned()
}
