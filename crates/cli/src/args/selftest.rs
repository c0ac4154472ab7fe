//! Arguments of `selftest`.

use clap::Args;

/// Arguments of `selftest`.
#[derive(Args, Debug)]
#[command(
    after_help = "A sandbox is made as `exeat run` makes it, with servers of its own outside as bait, and every way out is tried \
                        from inside. Nothing leaves this host as long as all of them are shut.\n\n\
                        Exit status: 0 everything ended as it must, 1 something did not, or the sandbox could not be made.\n\n\
                        Examples:\n  \
                        exeat selftest\n  \
                        exeat selftest --json | jq '.attempts[] | select(.ok | not)'\n  \
                        sudo exeat selftest --user nobody"
)]
pub struct SelftestArgs {
    /// As root: the user that the attempts are made by [default: nobody]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}
