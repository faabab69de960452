//! Servers of a test's own, to be configured, killed and started again.

use crate::support::variable;
use backup_mongo::MongoConfig;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server process with its data; both end with the value.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let mut server = Self { directory: tempfile::tempdir().unwrap(), port, arguments, child: None };
        server.launch();
        server
    }

    pub(crate) fn launch(&mut self) {
        let program = PathBuf::from(variable("BACKUP_TEST_MONGOD"));
        let child = Command::new(program)
            .arg("--dbpath")
            .arg(self.directory.path())
            .args(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--port", &self.port.to_string()])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) async fn direct(&self) -> Client {
        let uri = format!("mongodb://{}/?directConnection=true", self.host());
        Client::with_uri_str(uri).await.unwrap()
    }

    pub(crate) async fn run(&self, command: Document) -> Document {
        self.direct()
            .await
            .database("admin")
            .run_command(command.clone())
            .await
            .unwrap_or_else(|e| panic!("{command}: {e}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A replica set.
pub(crate) struct ReplicaSet {
    pub(crate) members: Vec<Server>,
}

impl ReplicaSet {
    pub(crate) async fn start(members: usize, arguments: &[&str]) -> Self {
        let arguments = [&["--replSet", "rs"], arguments].concat();
        let members: Vec<Server> = (0..members).map(|_| Server::start(&arguments)).collect();
        for member in &members {
            member.run(doc! { "hello": 1 }).await;
        }
        let hosts: Vec<_> =
            members.iter().enumerate().map(|(n, m)| doc! { "_id": n as i32, "host": m.host() }).collect();
        members[0].run(doc! { "replSetInitiate": { "_id": "rs", "members": hosts, "settings": { "electionTimeoutMillis": 2000 } } }).await;
        let set = Self { members };
        set.wait_for_primary().await;
        set
    }

    pub(crate) async fn wait_for_primary(&self) {
        for _ in 0..600 {
            for member in self.members.iter().filter(|m| m.child.is_some()) {
                let hello = member.direct().await.database("admin").run_command(doc! { "hello": 1 }).await;
                if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no member became primary");
    }

    pub(crate) fn uri(&self) -> String {
        let hosts: Vec<_> = self.members.iter().map(Server::host).collect();
        format!("mongodb://{}/?replicaSet=rs&serverSelectionTimeoutMS=60000", hosts.join(","))
    }

    /// How long the members keep old versions.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub(crate) async fn keep_for(&self, seconds: i32) {
        for member in &self.members {
            member.run(doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": seconds }).await;
        }
    }
}

pub(crate) fn standalone() -> Server {
    Server::start(&[])
}

pub(crate) fn config(uri: &str, database: &str) -> MongoConfig {
    let mut config = MongoConfig::new(uri.to_owned());
    config.databases = vec![database.into()];
    config
}
